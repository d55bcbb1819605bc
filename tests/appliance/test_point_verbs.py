"""The verbs about points, on a replica that holds a real file system: its two states are real, too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from one_replica import DISK_BYTES, Master, opened, wait_for
from stream import WRITE, record

from rha.appliance.replica import Replica
from rha.appliance.verbs import PointVerbs
from rha.cli.main import run
from rha.control import local
from rha.errors import StateError
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root
Output = pytest.CaptureFixture[str]


class Two(NamedTuple):
    """A disk in two states; the first as a power cut would have left it, with a journal to be replayed."""

    first: bytes
    second: bytes


@pytest.fixture
def states(loop_device: Callable[..., str], mounted: Callable[..., Path]) -> Two:
    """Of one ext4: `old.txt` and `same.txt`, then `old.txt` changed and `new.txt` added."""
    device = loop_device(DISK_BYTES)
    where = mounted(device, "ext4")
    (where / "same.txt").write_text("the same")
    (where / "old.txt").write_text("first")
    subprocess.run(["sync", "-f", str(where)], check=True)
    first = read(device)
    (where / "old.txt").write_text("second")
    (where / "new.txt").write_text("new")
    subprocess.run(["sync", "-f", str(where)], check=True)
    return Two(first, read(device))


def read(device: str) -> bytes:
    """Past the page cache, which is stale while a file system writes below it."""
    return subprocess.check_output(["dd", f"if={device}", "iflag=direct", "bs=1M", "status=none"])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: Two) -> Iterator[Site]:
    """A replica that has seen both states, and answers the command line."""
    monkeypatch.setattr(local, "RUN_DIR", tmp_path / "run")
    replica = opened(tmp_path / "store")
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.sync(states.first)
    wait_for(lambda: bool(replica._images.history.intervals))
    before = master.lsn
    for at in range(0, DISK_BYTES, 4096):
        if states.first[at : at + 4096] != states.second[at : at + 4096]:
            data = states.second[at : at + 4096]
            master.data(FrameType.RECORDS, record(WRITE, 0, at // 512, 4096, data))
    master.settle()
    verbs = PointVerbs(lambda name: replica, no_engine)
    with local.serve(local.RUN_DIR / "appliance.sock", verbs.handlers()):
        yield Site(replica, master, before, states)
    replica.close()


def no_engine(scenario: str, verb: str, limit: float | None, **words: object) -> object:
    raise StateError(f"the master of {scenario} is not connected")


class Site(NamedTuple):
    replica: Replica
    master: Master
    before: int
    states: Two


def test_mounting_a_point_while_replication_goes_on(site: Site, tmp_path: Path, capsys: Output) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    assert run(["mount", "web1", str(where), "--at", str(site.before)]) == 0
    assert f"  {where}" in capsys.readouterr().out.splitlines()
    site.master.data(FrameType.RECORDS, record(WRITE, 0, 0, DISK_BYTES // 2, b"\xff" * (DISK_BYTES // 2)))
    site.master.settle()
    subprocess.run(["sysctl", "-q", "vm.drop_caches=3"], check=False)
    assert (where / "old.txt").read_text() == "first"
    assert (where / "same.txt").read_text() == "the same"
    with pytest.raises(OSError, match="Read-only"):
        (where / "x").write_text("")
    with (where / "same.txt").open():
        assert run(["umount", "web1", str(where)]) == 7  # in use
    assert run(["umount", "web1", str(where)]) == 0
    assert not where.is_mount()
    assert site.replica.points.list().open == []
    assert site.replica.read_image(0, 0, 4) == b"\xff" * 4


def test_a_killed_appliance_leaves_nothing_mounted(site: Site, tmp_path: Path) -> None:
    where, image = tmp_path / "mnt", tmp_path / "copy.img"
    where.mkdir()
    image.write_bytes(site.states.second)
    script = Path(__file__).parent / "mount_child.py"

    words = [sys.executable, str(script), str(tmp_path / "other"), str(where), str(image)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "mounted\n"
        assert where.is_mount()
        child.kill()
    again = opened(tmp_path / "other")
    again.close()
    assert not where.is_mount()
    loops = subprocess.check_output(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], text=True)
    assert str(tmp_path / "other") not in loops


def test_restoring_a_file(site: Site, tmp_path: Path, capsys: Output) -> None:
    target = tmp_path / "old.txt"
    assert run(["restore", "web1", "/old.txt", str(target), "--at", str(site.before)]) == 0
    assert target.read_text() == "first"
    assert run(["restore", "web1", "/old.txt", str(target), "--at", "now"]) == 9
    assert "exists already" in capsys.readouterr().err
    assert run(["restore", "web1", "/none", str(tmp_path / "x"), "--at", "now"]) == 9
    assert "/ has: lost+found, new.txt, old.txt, same.txt" in capsys.readouterr().err
    assert site.replica.points.list().open == []


def test_difference_of_two_points(site: Site, capsys: Output) -> None:
    assert run(["diff", "web1", str(site.before), "--files", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sorted(answer["files"]) == [["+", "new.txt"], ["M", "old.txt"]]
    first, second = site.states
    sectors = [at for at in range(0, DISK_BYTES, 512) if first[at : at + 512] != second[at : at + 512]]
    assert [at for begin, length in answer["ranges"]["d0"] for at in range(begin, begin + length, 512)] == sectors


@pytest.mark.parametrize("form", ["qcow2", "vhdx", "vmdk", "raw", "vpc"])
def test_exported_images(site: Site, tmp_path: Path, form: str) -> None:
    target, back = tmp_path / f"disk.{form}", tmp_path / "back.raw"
    assert run(["export", "web1", str(target), "--at", str(site.before), "--format", form]) == 0
    subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", str(target), str(back)], check=True)
    assert back.read_bytes() == site.states.first
    if form not in ("raw", "vpc"):
        subprocess.run(["qemu-img", "check", "-f", form, str(target)], check=True, capture_output=True)
    assert run(["export", "web1", str(target), "--format", form]) == 7  # it exists


@pytest.mark.parametrize("form", ["vhdx", "vpc"])
def test_an_independent_reader_opens_it(site: Site, tmp_path: Path, form: str) -> None:
    """libvhdi knows nothing of QEMU."""
    target, where = tmp_path / "disk.vhd", tmp_path / "vhdi"
    assert run(["export", "web1", str(target), "--at", str(site.before), "--format", form]) == 0
    said = subprocess.check_output(["vhdiinfo", str(target)], text=True)
    assert f"({DISK_BYTES} bytes)" in said
    where.mkdir()
    subprocess.run(["vhdimount", str(target), str(where)], check=True, capture_output=True)
    try:
        assert (where / "vhdi1").read_bytes() == site.states.first
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_bookmarks(site: Site, capsys: Output) -> None:
    assert run(["bookmark", "web1", "before-update", "--at", str(site.before)]) == 0
    assert run(["bookmark", "web1", "before-update"]) == 9
    assert "exists already" in capsys.readouterr().err
    assert run(["bookmark", "web1", "10min"]) == 9
    assert run(["bookmark", "web1", "later", "--at", "2099-01-01"]) == 9
    assert "in the future" in capsys.readouterr().err
    assert run(["points", "web1"]) == 0
    shown = capsys.readouterr().out
    assert "every write from LSN 8 on is a point" in shown
    assert f"bookmark before-update: LSN {site.before}" in shown
    assert site.replica.points.find("before-update").lsn == site.before
    assert run(["bookmark", "web1", "quiet", "--quiesce"]) == 9
    assert "the master of web1 is not connected" in capsys.readouterr().err
    assert run(["bookmark", "web1", "quiet", "--quiesce", "--at", "10min"]) == 2
    assert run(["bookmark", "web1", "before-update", "--drop"]) == 0
    assert run(["bookmark", "web1", "before-update", "--drop"]) == 9


def test_mounting_on_what_is_no_empty_directory(site: Site, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for where in (tmp_path / "full", tmp_path / "missing"):
        assert run(["mount", "web1", str(where), "--at", "now"]) == 9
        assert "no empty directory" in capsys.readouterr().err
    assert site.replica.points.list().open == []
