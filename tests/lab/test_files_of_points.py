"""`rha diff --files` and `rha restore` on the real path: what they say and copy, for each file system."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from proof.lab import MIB, RHA, Lab, environment, run, wait_for

pytestmark = pytest.mark.root


def rha(lab: Lab, *words: object) -> str:
    variables = environment(lab.folder / "run")
    done = subprocess.run([*RHA, *map(str, words)], env=variables, capture_output=True, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr, lab.appliance.log()[-2000:])
    return done.stdout.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_changed_files(lab: Lab, kind: str) -> None:
    disk = lab.disk(400 * MIB)
    mnt = lab.mount(disk.path, kind)
    (mnt / "etc").mkdir()
    for name in ("same", "content", "gone", "mode", "acl", "link"):
        (mnt / "etc" / name).write_text(f"{name} before")
    (mnt / "out").symlink_to("/etc")  # which is a folder of this host, too
    engine = lab.engine([disk.path])
    name = engine.name
    lab.appliance.start()
    engine.start()
    engine.wait_ordered()
    run("sync", "-f", mnt)
    engine.wait_ordered()
    wait_for(lambda: lab.appliance.report(name).get("window"), 180, lambda: lab.appliance.report(name))
    rha(lab, "bookmark", name, "before")
    change(mnt / "etc")
    run("sync", "-f", mnt)
    engine.wait_ordered()
    rha(lab, "bookmark", name, "after")
    (mnt / "etc/same").write_text("much later")
    shown = [line for line in rha(lab, "diff", name, "before", "after", "--files").splitlines() if line[2:3] in "+-Mm"]
    assert sorted(line for line in shown if not line.startswith("   ")) == [
        "  + etc/d",
        "  + etc/odd\\xff\\x0aname",
        "  - etc/gone",
        "  M etc/content",
        "  M etc/link",
        "  m etc/acl",
        "  m etc/mode",
    ]
    target = lab.folder / "restored"
    rha(lab, "restore", name, "/etc", target, "--at", "before")
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        word: f"{word} before" for word in ("same", "content", "gone", "mode", "acl", "link")
    }
    rha(lab, "restore", name, "/out/content", lab.folder / "content", "--at", "after")
    assert (lab.folder / "content").read_text() == "changed"


def change(etc: Path) -> None:
    (etc / "content").write_text("changed")
    (etc / "gone").unlink()
    (etc / "mode").chmod(0o600)
    os.setxattr(etc / "acl", "user.comment", b"changed")
    (etc / "link").unlink()
    (etc / "link").symlink_to("content")
    (etc / "d").mkdir()
    (etc / "d/new").write_text("new")
    Path(os.fsdecode(bytes(etc) + b"/odd\xff\nname")).write_text("odd")
