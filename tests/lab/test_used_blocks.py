"""A first sync that leaves out free space. Two judges: every byte that the file system's own tool calls used is the
disk's, and the image mounts, is sound, and holds the same files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proof.filesystems import fault, mounted
from proof.lab import MIB, Disk, Engine, Lab, run, wait_for
from proof.writers import FileWriter

pytestmark = pytest.mark.root

SIZES = {"ext4": 192 * MIB, "xfs": 320 * MIB}
Range = tuple[int, int]  # begin, end in bytes


def free_by_dumpe2fs(image: Path) -> Iterator[Range]:
    """`Free blocks:` of each group."""
    text = run("dumpe2fs", image)
    size = int(re.findall(r"Block size: +(\d+)", text)[0])
    for line in re.findall(r"^  Free blocks: (.+)$", text, re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", line):
            yield int(first) * size, (int(last or first) + 1) * size


def free_by_xfs_db(image: Path) -> Iterator[Range]:
    """The by-block tree of each allocation group, leaf by leaf."""
    fields = dict(re.findall(r"(\w+) = (\d+)", run("xfs_db", "-r", "-c", "sb 0", "-c", "print", image)))
    size, group = int(fields["blocksize"]), int(fields["agblocks"])
    text = run("xfs_db", "-r", "-c", "freesp -d", image)
    for number, begin, count in re.findall(r"^ +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE):
        start = (int(number) * group + int(begin)) * size
        yield start, start + int(count) * size


FREE = {"ext4": free_by_dumpe2fs, "xfs": free_by_xfs_db}


def difference_in_used(kind: str, disk: Path, image: Path) -> int | None:
    """The first byte outside free space at which the two differ."""
    at = 0
    ranges = sorted(FREE[kind](disk))
    assert sum(end - begin for begin, end in ranges) > 32 * MIB
    with disk.open("rb") as one, image.open("rb") as other:
        for begin, end in [*ranges, (disk.stat().st_size, 0)]:
            for file in (one, other):
                file.seek(at)
            mine, theirs = one.read(begin - at), other.read(begin - at)
            if mine != theirs:
                return at + next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
            at = end
    return None


def files(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def noisy(disk: Disk) -> None:
    """What the disk once held: never zeros."""
    with open(disk.path, "wb", buffering=0) as node:
        for _ in range(disk.bytes // MIB):
            node.write(os.urandom(MIB))
        os.fsync(node.fileno())


def used_disk(lab: Lab, kind: str) -> tuple[Disk, Path]:
    """A file system on noise, a part of it written and deleted again."""
    disk = lab.disk(SIZES[kind])
    noisy(disk)
    run(f"mkfs.{kind}", *(["-F", "-E", "nodiscard"] if kind == "ext4" else ["-f", "-K"]), disk.path)
    point = lab.folder / "mnt"
    point.mkdir()
    run("mount", disk.path, point)
    lab.stack.callback(lambda: os.path.ismount(point) and run("umount", point))
    for number in range(40):
        (point / f"before-{number}").write_bytes(os.urandom(MIB))
    os.sync()
    for number in range(0, 40, 2):
        (point / f"before-{number}").unlink()
    return disk, point


def finished(lab: Lab, engine: Engine, disk: Disk) -> Path:
    """Everything stopped, in write order: the image as a raw file."""
    disk.sync()
    engine.wait_ordered()
    lab.appliance.wait_applied(engine.name)
    engine.stop()
    lab.appliance.stop()
    raw = lab.memory / f"{engine.name}-image.raw"
    lab.stack.callback(raw.unlink, missing_ok=True)
    run("qemu-img", "convert", "-O", "raw", lab.appliance.image(engine.name, "d0"), raw)
    return raw


@pytest.mark.parametrize("kind", SIZES)
def test_free_space_is_left_out_and_nothing_else(lab: Lab, kind: str) -> None:
    disk, point = used_disk(lab, kind)
    lab.appliance.start()
    engine = lab.engine([disk.path], sync="auto")
    with FileWriter(point) as writer:
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, lambda: (engine.report(), lab.appliance.log()))
        ordered_at = writer.count
        wait_for(lambda: writer.count > ordered_at + 100, 30)
    kept = files(point)
    run("fsfreeze", "--freeze", point)
    try:
        answer = engine.verify()
    finally:
        run("fsfreeze", "--unfreeze", point)
    assert answer["equal"], answer
    assert answer["left_out_bytes"] > 32 * MIB, answer
    run("umount", point)
    image = finished(lab, engine, disk)
    assert difference_in_used(kind, disk.file, image) is None

    def look(folder: Path) -> str | None:
        return None if files(folder) == kept else "its files are not the disk's"

    assert fault(kind, image, lab.folder, look) is None


def test_reserved_space_that_was_never_written_is_no_difference(lab: Lab) -> None:
    """fallocate makes space used without a write; a sector written there counts, those beside it do not."""
    disk, point = used_disk(lab, "ext4")
    lab.appliance.start()
    engine = lab.engine([disk.path], sync="auto")
    engine.start()
    engine.wait_ordered()
    run("fallocate", "--length", "16MiB", point / "reserved")
    with open(point / "reserved", "r+b", buffering=0) as file:
        for at in range(0, 16 * MIB, 160 << 10):
            os.pwrite(file.fileno(), b"written" * 500, at)
        os.fsync(file.fileno())
    engine.wait_ordered()
    answer = engine.verify()
    assert answer["equal"], answer
    assert answer["left_out_used_bytes"] > MIB, answer


def test_what_was_left_out_is_known_after_kills(lab: Lab) -> None:
    """Both daemons are killed; a write that bypasses the probe's stream is then found where nothing was left out."""
    disk, point = used_disk(lab, "ext4")
    lab.appliance.start()
    engine = lab.engine([disk.path], sync="auto")
    engine.start()
    engine.wait_ordered()
    (point / "after").write_bytes(os.urandom(8 * MIB))
    os.sync()
    engine.wait_ordered()
    engine.kill()
    lab.appliance.kill()
    lab.appliance.start()
    engine.start()
    engine.wait_ordered()
    answer = engine.verify()
    assert answer["equal"], answer
    assert answer["left_out_bytes"] > 32 * MIB, answer
    extent = re.findall(r"^ +0: +\d+\.\. +\d+: +(\d+)\.\.", run("filefrag", "-v", point / "after"), re.MULTILINE)
    place = int(extent[0]) * os.statvfs(point).f_bsize
    with disk.file.open("r+b") as below:  # below the device: the probe cannot see it
        below.seek(place)
        below.write(b"changed behind everybody's back")
    answer = engine.verify()
    assert not answer["equal"], answer
    assert [one["offset"] for one in answer["differing"]] == [place // 65536 * 65536]


def test_partitions_are_asked_each_and_the_rest_is_used(lab: Lab) -> None:
    disk = lab.disk(256 * MIB)
    noisy(disk)
    script = lab.folder / "table"
    script.write_text("label: gpt\nstart=2048, size=131072\nstart=135168, size=131072\n")
    run("sh", "-c", f"sfdisk --quiet {disk.path} < {script}")
    run("partx", "--update", disk.path)
    lab.stack.callback(lambda: run("partx", "--delete", disk.path))
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", f"{disk.path}p1")
    lab.appliance.start()
    with mounted(f"{disk.path}p1", lab.folder / "p1", "rw") as point:
        (point / "file").write_bytes(os.urandom(MIB))
        engine = lab.engine([disk.path], sync="auto")
        engine.start()
        engine.wait_ordered()
        answer = engine.verify()
    assert answer["equal"], answer
    assert 32 * MIB < answer["left_out_bytes"] < 64 * MIB, answer
    image = finished(lab, engine, disk)
    with disk.file.open("rb") as one, image.open("rb") as other:
        assert one.read(MIB) == other.read(MIB), "partition table and gap"
        for file in (one, other):
            file.seek(65 * MIB)
        assert one.read() == other.read(), "the second partition, not mounted, and the second table"


def test_a_deletion_that_no_log_knows_of_yet(lab: Lab) -> None:
    """xfs: freed in memory, and a power cut would bring the file back. Then its content must be there, too."""
    disk, point = used_disk(lab, "xfs")
    os.sync()
    kept = files(point)
    before = os.statvfs(point).f_bfree
    for number in range(1, 40, 2):
        (point / f"before-{number}").unlink()
    wait_for(lambda: os.statvfs(point).f_bfree > before + 19 * MIB // 4096, 10)
    lab.appliance.start()
    engine = lab.engine([disk.path], sync="auto")
    engine.start()
    wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    engine.kill()
    lab.appliance.wait_applied(engine.name)
    lab.appliance.stop()
    raw = lab.memory / f"{engine.name}-image.raw"
    lab.stack.callback(raw.unlink, missing_ok=True)
    run("qemu-img", "convert", "-O", "raw", lab.appliance.image(engine.name, "d0"), raw)

    def look(folder: Path) -> str | None:
        wrong = [name for name, digest in files(folder).items() if kept[name] != digest]
        return f"{wrong} came back with other content" if wrong else None

    assert fault("xfs", raw, lab.folder, look) is None
