"""Every way in which a program or file system writes: all of it is in the stream, and the image is the disk."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from proof.lab import MIB, Engine, Lab, run, wait_for
from rha.journal.segment import Journal
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root

RECORD = struct.Struct("<QIHBBQ")  # csrc/record.h
FUA, PREFLUSH, PARTIAL = 1, 2, 4
WRITE, DISCARD, WRITE_ZEROES, FLUSH = 1, 2, 3, 5
HUGE = 2 * MIB
PAGEOUT, COLLAPSE = 21, 25  # madvise(2)
PUNCH, KEEP, ZERO_RANGE = 2, 1, 16  # fallocate(2)

libc = ctypes.CDLL(None, use_errno=True)


def heads(lab: Lab, name: str) -> list[tuple[int, int, int, int]]:
    """Journalled records in order: (op, flags, first byte, length in bytes), by the layout of csrc/record.h alone."""
    found = []
    with Journal.open(lab.appliance.store / name / "journal") as journal:
        for entry in journal.read(journal.first):
            if entry.header.type is not FrameType.RECORDS:
                continue
            at, data = 0, entry.payload[: entry.header.raw_length]
            while at < len(data):
                (header,) = struct.unpack_from("<I", data, at)
                sector, length, _, op, flags, _ = RECORD.unpack_from(data, at + 8)
                if not header & 1 << 30:
                    found.append((op, flags, sector * 512, length))
                at += 8 + (header & (1 << 30) - 1) + 7 & ~7
    return found


def ordered(lab: Lab, device: str, ring: str = "64MiB") -> Engine:
    lab.appliance.start()
    engine = lab.engine([device], ring=ring)
    engine.start()
    engine.wait_ordered()
    return engine


def huge_memory(size: int) -> mmap.mmap:
    """Memory whose pages lie together: a bio takes 256 pieces, so only large pieces make a large bio."""
    memory = mmap.mmap(-1, size + 2 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    memory[:] = (random.Random(5).randbytes(MIB + 7) * (len(memory) // MIB + 1))[: len(memory)]
    memory.madvise(COLLAPSE, aligned(memory), -(-size // HUGE) * HUGE)
    return memory


def aligned(memory: mmap.mmap) -> int:
    """Where its first huge page begins."""
    return -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % HUGE


@pytest.mark.parametrize("size", [2 * MIB, 8 * MIB + 512, 32 * MIB])
def test_one_bio_of_many_records(lab: Lab, size: int) -> None:
    disk = lab.disk(64 * MIB)
    engine = ordered(lab, disk.path, ring="128MiB")
    memory = huge_memory(size)
    start = aligned(memory)
    fd = os.open(disk.path, os.O_WRONLY | os.O_DIRECT)
    with memoryview(memory) as whole, whole[start : start + size] as part:
        assert os.pwritev(fd, [part], 7 * MIB) == size
    os.close(fd)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    writes = [(flags, first, length) for op, flags, first, length in heads(lab, engine.name) if op == WRITE]
    assert sum(length for *_, length in writes) == size
    assert [first for _, first, _ in writes] == [7 * MIB + sum(w[2] for w in writes[:i]) for i in range(len(writes))]
    last = [flags & PARTIAL == 0 for flags, *_ in writes]
    assert last.count(True) == 1, "one bio"
    assert last[-1], "and the mark stands on all its records but the last"


def test_memory_in_many_odd_pieces(lab: Lab) -> None:
    """One write from 200 pieces of memory, each beginning and ending inside a page."""
    disk = lab.disk(16 * MIB)
    engine = ordered(lab, disk.path)
    draw = random.Random(11)
    memory = mmap.mmap(-1, 8 * MIB)
    memory[:] = draw.randbytes(8 * MIB)
    pieces = [(i * 32768 + 512 * draw.randrange(1, 8), 512 * draw.choice([1, 3, 7, 9, 16])) for i in range(200)]
    fd = os.open(disk.path, os.O_WRONLY | os.O_DIRECT)
    with memoryview(memory) as whole:
        parts = [whole[start : start + length] for start, length in pieces]
        total = sum(length for _, length in pieces)
        assert os.pwritev(fd, parts, MIB + 512) == total
        for part in parts:
            part.release()
    os.close(fd)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    assert sum(length for op, *_, length in heads(lab, engine.name) if op == WRITE) == total


@pytest.mark.parametrize("engine_name", ["libaio", "io_uring", "mmap", "pvsync2"])
def test_interfaces(lab: Lab, engine_name: str) -> None:
    """fio writes and knows what it wrote; it reads the image again and checks every block's sum."""
    disk = lab.disk(64 * MIB)
    engine = ordered(lab, disk.path)
    direct = "0" if engine_name == "mmap" else "1"
    words = ["fio", "--name=w", f"--filename={disk.path}", f"--ioengine={engine_name}", f"--direct={direct}"]
    words += [
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--blockalign=512",
        "--iodepth=16",
        "--size=48m",
        "--verify=crc32c",
    ]
    run(
        *words, "--io_size=24m", "--verify_state_save=0", "--do_verify=0", "--end_fsync=1", "--randrepeat=1", "--thread"
    )
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])


def test_flushes_and_forced_writes_of_a_journal(lab: Lab) -> None:
    """ext4 writes its commit block with PREFLUSH and FUA; fdatasync of a device is an empty flush."""
    disk = lab.disk(64 * MIB)
    folder = lab.mount(disk.path, "ext4")
    engine = ordered(lab, disk.path)
    with (folder / "file").open("wb") as file:
        file.write(os.urandom(70_000))
        file.flush()
        os.fsync(file.fileno())
    run("umount", folder)
    fd = os.open(disk.path, os.O_WRONLY)
    os.fdatasync(fd)
    os.close(fd)
    lab.assert_equal(engine, [disk])
    seen = heads(lab, engine.name)
    assert any(op == WRITE and flags & PREFLUSH and flags & FUA for op, flags, *_ in seen)
    assert any((op, length) == (FLUSH, 0) for op, _, _, length in seen)


def test_discard_and_zeroing_through_fallocate(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    engine = ordered(lab, disk.path)
    fd = os.open(disk.path, os.O_WRONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, 8 * MIB)
    memory[:] = random.Random(3).randbytes(8 * MIB)
    for at in range(0, 64 * MIB, 8 * MIB):
        os.pwrite(fd, memory, at)
    for mode, offset, length in ((PUNCH | KEEP, 4 * MIB, 3 * MIB), (ZERO_RANGE | KEEP, 12 * MIB + 4096, MIB + 512)):
        if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
    os.close(fd)
    run("blkdiscard", "--offset", 20 * MIB, "--length", 2 * MIB, disk.path)
    run("blkdiscard", "--zeroout", "--offset", 30 * MIB + 512, "--length", MIB, disk.path)
    lab.assert_equal(engine, [disk])
    seen = heads(lab, engine.name)
    assert any(op == DISCARD and first == 20 * MIB for op, _, first, _ in seen)
    assert any(op == WRITE_ZEROES and first == 12 * MIB + 4096 for op, _, first, _ in seen)


def test_swap(lab: Lab) -> None:
    """Pages that the kernel moves out by itself: bios on its stack, without a file."""
    disk = lab.disk(64 * MIB)
    engine = ordered(lab, disk.path)
    run("mkswap", disk.path)
    run("swapon", "--priority", 32767, disk.path)
    off = lab.stack.callback(subprocess.run, ["swapoff", disk.path], check=False, stderr=subprocess.DEVNULL)
    before = engine.report()["payload_bytes"]
    content = random.Random(9).randbytes(16 * MIB)
    memory = mmap.mmap(-1, len(content))
    memory[:] = content
    memory.madvise(PAGEOUT)
    wait_for(lambda: engine.report()["payload_bytes"] >= before + 12 * MIB, 30, engine.report)
    assert memory[:] == content
    run("swapoff", disk.path)
    assert off
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])


def test_shared_mapping_of_a_file(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    folder = lab.mount(disk.path, "ext4")
    engine = ordered(lab, disk.path)
    path = Path(folder) / "mapped"
    with path.open("w+b") as file:
        file.truncate(8 * MIB)
        with mmap.mmap(file.fileno(), 8 * MIB) as mapping:
            draw = random.Random(2)
            for _ in range(400):
                at = draw.randrange(8 * MIB - 5000)
                mapping[at : at + 5000] = draw.randbytes(5000)
            mapping.flush()
    run("umount", folder)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])


@pytest.mark.parametrize(("size", "refused"), [(4096, False), (8 * MIB, True)], ids=["accepted", "refused"])
def test_a_write_that_must_not_wait(lab: Lab, size: int, refused: bool) -> None:
    """RWF_NOWAIT: what would have to be split is refused, is not on the disk, and must not be in the stream."""
    disk = lab.disk(64 * MIB)
    engine = ordered(lab, disk.path)
    memory = huge_memory(size)
    start = aligned(memory)
    fd = os.open(disk.path, os.O_WRONLY | os.O_DIRECT)
    with memoryview(memory) as whole, whole[start : start + size] as part:
        if refused:
            with pytest.raises(BlockingIOError):
                os.pwritev(fd, [part], MIB, os.RWF_NOWAIT)
        else:
            assert os.pwritev(fd, [part], MIB, os.RWF_NOWAIT) == size
    os.close(fd)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    assert [(first, length) for op, _, first, length in heads(lab, engine.name) if op == WRITE] == (
        [] if refused else [(MIB, size)]
    )


def test_writes_that_try_not_to_wait_and_then_do(lab: Lab) -> None:
    """io_uring tries every write with REQ_NOWAIT first. Large ones are refused, small ones merged: the order holds."""
    disk = lab.disk(128 * MIB)
    engine = ordered(lab, disk.path, ring="256MiB")
    words = ["fio", "--name=w", f"--filename={disk.path}", "--ioengine=io_uring", "--direct=1", "--iodepth=16"]
    run(*words, "--rw=write", "--bs=4m", "--io_size=96m", "--size=96m", "--verify=crc32c", "--do_verify=0")
    run(*words, "--rw=write", "--bs=4k", "--iodepth_batch=16", "--size=16m", "--offset=100m")
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
