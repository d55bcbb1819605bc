"""Nothing stays behind of a switch, however often: a short version of `python -m bench cycles`."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import census
from bench.circle import Circle
from bench.cycles import rounds

pytestmark = pytest.mark.root


@pytest.fixture
def circle(libvirt_answers: None) -> Iterator[Circle]:
    with ExitStack() as stack:
        circle = Circle(stack)
        circle.begin()
        yield circle


def test_nothing_is_left_behind(circle: Circle) -> None:
    """One of each to warm up. Then a leak of one thing a round is two, or one of the other kind."""
    ways = [circle.lost_and_home, circle.away_and_back]

    def both() -> None:
        for act in ways:
            act()

    assert rounds(circle, both, count=2, warm_up=1).left == []
    circle.lab.assert_equal(circle.engine, [circle.disk])


def test_a_leak_is_seen(tmp_path: Path) -> None:
    """What the census is there for: each kind of thing, left behind on purpose."""
    before = census.of_process("test", os.getpid())
    over = threading.Event()
    with tempfile.TemporaryFile(dir=tmp_path), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        thread = threading.Thread(target=over.wait)
        thread.start()
        found = census.more(before, census.of_process("test", os.getpid()))
        over.set()
        thread.join()
        assert child.stdin is not None
        child.stdin.close()
    assert any(line.startswith("test descriptors: pipe:[N]") for line in found), found
    assert any(line.startswith(f"test descriptors: {tmp_path}") for line in found), found
    assert any(line.startswith("test threads: ") for line in found), found
    assert "test children: cat 0 -> 1" in found
    assert census.more(before, census.of_process("test", os.getpid())) == []
