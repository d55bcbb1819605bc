"""Files of a guest that somebody has damaged, by accident or to harm: there is always a plan or a warning."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from rha.vm.guest.adapt import LINK, plan
from rha.vm.guest.initramfs import modules
from rha.vm.guest.tree import File, Unknown
from tests.vm.guest.trees import FULL, SAMPLES, tree_of

NAMES = sorted(path.name for path in SAMPLES.iterdir())
WORDS = [
    b"[Match]\n",
    b"Name=",
    b"iface ",
    b"network:",
    b": {",
    b"- ",
    b"&a ",
    b"*a",
    b"\xff\xfe",
    b"=\n",
    b"\\\n",
    b"/",
    b"\0",
]
WORDS += [
    b"[Route]\nGateway=\n",
    b"type=bridge\n",
    b"match: 7",
    b"addresses: x",
    b"routes: [[]]",
    b"inet static\n",
    b"iface a inet\n",
]


@st.composite
def damaged(draw):
    """One sample with some cuts and insertions in its files."""
    tree = tree_of(draw(st.sampled_from(NAMES)))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(sorted(tree)))
        content = tree[path].content
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 20))
        word = draw(st.sampled_from(WORDS) | st.binary(max_size=8))
        tree[path] = File(content[:at] + word + content[at + length :])
    return tree


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_a_plan_or_a_warning(tree):
    found = plan(tree, FULL, b"")
    assert found.said or found.warnings
    for edit in found.edits:
        if edit.path == LINK:
            assert len(edit.content.splitlines()) == 7


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([b"070701", b"\x1f\x8b", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0"]),
    st.binary(max_size=300),
)
def test_names_or_a_refusal(magic, rest):
    pieces = iter([magic + rest, b""])
    with contextlib.suppress(Unknown):
        assert modules(lambda: next(pieces, b"")) == set()
