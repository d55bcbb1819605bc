"""Freezing real file systems: whoever is killed, and whatever hangs, they are thawed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rha.capture import above, device
from rha.capture.freeze import Freeze, opened
from rha.errors import DeviceError
from tests.redirect.wires import eventually

pytestmark = pytest.mark.root
SIZE = 320 << 20  # the least for xfs

# Freezes, says so, and hangs: what an engine would be that is killed or stopped in this moment.
HANGS = """
import sys, time
from rha.capture.freeze import Freeze, opened
with opened(sys.argv[2:]) as files, Freeze(files, sys.argv[2:], float(sys.argv[1])) as freeze:
    print(freeze._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def place(request: pytest.FixtureRequest, loop_device: Callable[..., str], mounted: Callable[..., Path]) -> Path:
    return mounted(loop_device(SIZE), request.param)


@pytest.fixture
def ext4(loop_device: Callable[..., str], mounted: Callable[..., Path]) -> Path:
    return mounted(loop_device(SIZE), "ext4")


class Mounts:
    """Loop devices and mounts that may lie on each other: all is undone in the opposite order."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.devices: list[str] = []

    def device(self, size: int, folder: Path | None = None) -> str:
        file = (folder or self._folder) / f"{len(self.devices)}.raw"
        with file.open("xb") as handle:
            handle.truncate(size)
        device = subprocess.check_output(["losetup", "--find", "--show", str(file)], text=True).strip()
        self._stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
        self.devices.append(device)
        return device

    def file(self, size: int, kind: str, *options: str, folder: Path | None = None) -> Path:
        """A new file system on a new device, mounted."""
        device = self.device(size, folder)
        force = {"ext4": ["-F"], "xfs": ["-f"]}.get(kind, [])
        subprocess.run([f"mkfs.{kind}", *force, device], check=True, capture_output=True)
        return self.mount(device, *options)

    def mount(self, source: object, *options: str, at: Path | None = None) -> Path:
        point = at or self._folder / f"mnt-{len(list(self._folder.iterdir()))}"
        point.mkdir(exist_ok=True)
        subprocess.run(["mount", *options, str(source), str(point)], check=True)
        self._stack.callback(subprocess.run, ["umount", str(point)], check=True)
        return point


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    with ExitStack() as stack:
        yield Mounts(tmp_path, stack)


class Writer:
    """Makes a file in a process of its own, since who writes to a frozen file system cannot be interrupted."""

    def __init__(self, place: Path) -> None:
        self._process = subprocess.Popen(["touch", str(place / "written")])

    @property
    def has_written(self) -> bool:
        return self._process.poll() is not None

    def is_held(self) -> bool:
        """In uninterruptible sleep, as who waits for a thaw is."""
        state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "D"


def hanging(seconds: float, *places: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that has frozen the places and hangs; and its freezer's number."""
    words = [sys.executable, "-c", HANGS, str(seconds), *map(str, places)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[str], freezer: int) -> None:
    """kill -9. Returns once its freezer has ended, too: it has the file system open until then."""
    process.kill()
    process.wait()
    eventually(lambda: not Path(f"/proc/{freezer}").exists(), 30)


def child_of(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


def test_held_until_it_is_thawed(place: Path) -> None:
    with opened([str(place)]) as files, Freeze(files, [str(place)], 60) as freeze:
        writer = Writer(place)
        eventually(writer.is_held, 30)
        freeze.thaw()
    eventually(lambda: writer.has_written, 30)


def test_killed_while_frozen(place: Path) -> None:
    """kill -9 of who wanted it: thawed at once, long before the limit."""
    process, freezer = hanging(300, place)
    writer = Writer(place)
    eventually(writer.is_held, 30)
    kill(process, freezer)
    eventually(lambda: writer.has_written, 30)


def test_stopped_while_frozen(ext4: Path) -> None:
    """Who wanted it lives and does nothing: thawed when the limit has passed."""
    begun = time.monotonic()
    process, freezer = hanging(2, ext4)
    process.send_signal(signal.SIGSTOP)
    writer = Writer(ext4)
    eventually(lambda: writer.has_written, 30)
    assert time.monotonic() - begun >= 2, "it was not frozen for as long"
    kill(process, freezer)


@pytest.mark.parametrize("which", ["worker", "guard"])
def test_freezer_killed(ext4: Path, which: str) -> None:
    """Either of its two processes: the other one thaws."""
    process, guard = hanging(3 if which == "guard" else 300, ext4)
    writer = Writer(ext4)
    eventually(writer.is_held, 30)
    os.kill(guard if which == "guard" else child_of(guard), signal.SIGKILL)
    eventually(lambda: writer.has_written, 30)
    kill(process, guard)


def test_signals_do_not_end_it(ext4: Path) -> None:
    process, guard = hanging(300, ext4)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(guard, number)
        os.kill(child_of(guard), number)
    writer = Writer(ext4)
    eventually(writer.is_held, 30)
    kill(process, guard)
    eventually(lambda: writer.has_written, 30)


def test_all_killed_at_once_is_thawed_by_who_wanted_it(ext4: Path) -> None:
    with opened([str(ext4)]) as files, Freeze(files, [str(ext4)], 300) as freeze:
        guard = freeze._process.pid
        worker = child_of(guard)
        os.kill(guard, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        os.kill(guard, signal.SIGKILL)
        with pytest.raises(DeviceError, match="was not frozen all the time"):
            freeze.thaw()
    (ext4 / "written").touch()


def test_somebody_else_thaws(place: Path) -> None:
    with opened([str(place)]) as files, Freeze(files, [str(place)], 60) as freeze:
        subprocess.run(["fsfreeze", "-u", str(place)], check=True)
        with pytest.raises(DeviceError) as refused:
            freeze.thaw()
    assert refused.value.cause == "somebody else thawed it meanwhile"


def test_over_the_limit(ext4: Path) -> None:
    with opened([str(ext4)]) as files, Freeze(files, [str(ext4)], 0.5) as freeze:
        writer = Writer(ext4)
        eventually(lambda: writer.has_written, 30)
        with pytest.raises(DeviceError) as refused:
            freeze.thaw()
    assert refused.value.cause == "not done within 0.5 s; it was thawed by then"


def test_one_that_cannot_be_frozen(mounts: Mounts) -> None:
    """As vfat. What was frozen before it is thawed."""
    paths = [str(mounts.file(SIZE, "ext4")), str(mounts.mount("tmpfs", "-t", "tmpfs"))]
    with opened(paths) as files, pytest.raises(DeviceError) as refused, Freeze(files, paths, 60):
        pass
    assert refused.value.what == f"{paths[1]} cannot be frozen"
    assert refused.value.cause == "its file system cannot be frozen"
    (Path(paths[0]) / "written").touch()


def test_one_that_somebody_has_frozen(place: Path) -> None:
    subprocess.run(["fsfreeze", "-f", str(place)], check=True)
    try:
        with opened([str(place)]) as files, pytest.raises(DeviceError) as refused, Freeze(files, [str(place)], 60):
            pass
        assert refused.value.cause == "it is frozen already, by somebody else"
    finally:
        subprocess.run(["fsfreeze", "-u", str(place)], check=True)  # it still was


def test_what_lies_on_a_disk(mounts: Mounts) -> None:
    """Its own file system, and one in a file on that: the upper one first. Read-only and other disks' are left."""
    lower = mounts.file(2 * SIZE, "ext4")
    disk = mounts.devices[0]
    mounts.file(SIZE, "ext4")
    upper = mounts.file(SIZE, "xfs", folder=lower)
    mounts.file(64 << 20, "ext4", "--options", "ro", folder=lower)
    bound = mounts.mount(lower, "--bind")
    found = above.file_systems_on([device.lookup(disk)])
    assert [{mount.point for mount in one.mounts} for one in found] == [{str(upper)}, {str(lower), str(bound)}]


def test_a_loop_whose_file_and_folder_are_deleted(mounts: Mounts) -> None:
    """As a test that was killed leaves one: where it lies is still known."""
    lower = mounts.file(2 * SIZE, "ext4")
    folder = lower / "folder"
    folder.mkdir()
    upper = mounts.file(SIZE, "xfs", folder=folder)
    shutil.rmtree(folder)
    found = above.file_systems_on([device.lookup(mounts.devices[0])])
    assert [one.point for one in found] == [str(upper), str(lower)]


def test_btrfs_on_the_second_of_its_disks(mounts: Mounts) -> None:
    first, second = mounts.device(SIZE), mounts.device(SIZE)
    subprocess.run(["mkfs.btrfs", "-q", "-f", first, second], check=True)
    point = mounts.mount(first)
    assert [one.point for one in above.file_systems_on([device.lookup(second)])] == [str(point)]


def test_a_hidden_mount_is_not_taken_for_what_hides_it(mounts: Mounts) -> None:
    point = mounts.file(SIZE, "ext4")
    found_on = device.lookup(mounts.devices[0])
    mounts.mount("tmpfs", "-t", "tmpfs", at=point)
    found = above.file_systems_on([found_on])
    with pytest.raises(DeviceError, match=f"the file system of {point} cannot be reached"), above.opened(found):
        pass
