"""Writing past the storage daemon. The oracle is a bytearray, compared through QEMU: its daemon, then qemu-img."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbd
import numpy as np
import pytest

from rha.errors import StorageError
from rha.image import formats
from rha.image.client import ImageReader, ImageWriter
from rha.image.direct import RANGE, DirectFile
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.journal.extents import DATA, ZEROS, Extent, Table, table

MIB = 1 << 20
BYTES = 16 * MIB
CLUSTER = 64 << 10


@pytest.fixture
def image(tmp_path: Path) -> ImageSpec:
    spec = ImageSpec("root", tmp_path / "root.qcow2", "qcow2")
    formats.create(spec.path, BYTES)
    return spec


def batch(*parts: tuple[int, bytes]) -> tuple[Table, memoryview]:
    """Data extents at these offsets."""
    rows, data = [], bytearray()
    for offset, content in parts:
        rows.append(Extent(0, DATA, offset, len(content), len(data)))
        data += content
    return table(rows), memoryview(data)


def random_batch(draw: random.Random, model: bytearray, zeros: float = 0.2) -> tuple[Table, memoryview]:
    """Extents that do not overlap, ascending, a share of them zeros; the model takes them too."""
    cuts = sorted(draw.sample(range(0, BYTES // 512), 2 * draw.randint(1, 20)))
    rows, data = [], bytearray()
    for first, last in zip(cuts[::2], cuts[1::2], strict=True):
        offset, length = first * 512, min((last - first) * 512, draw.choice([512, 4096, 3 * CLUSTER]))
        if draw.random() < zeros:
            rows.append(Extent(0, ZEROS, offset, length, 0))
            model[offset : offset + length] = bytes(length)
        else:
            content = draw.randbytes(length)
            rows.append(Extent(0, DATA, offset, length, len(data)))
            data += content
            model[offset : offset + length] = content
    return table(rows), memoryview(data)


def raw(image: Path, work: Path) -> bytes:
    """What qemu-img reads of an image that nobody has open."""
    out = work / "converted.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, out], check=True)
    return out.read_bytes()


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """The storage daemon does nothing meanwhile: what works all the same went past it."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_writes_zeros_and_flushes(tmp_path: Path, image: ImageSpec, seed: int) -> None:
    draw, model = random.Random(seed), bytearray(BYTES)
    with StorageDaemon([image], tmp_path / "run") as daemon:
        with daemon.writer("root") as writer:
            for _ in range(60):
                writer.write_batch(*random_batch(draw, model))
                writer.drain()
                if draw.random() < 0.2:
                    writer.flush()
            writer.flush()
        assert daemon.reader("root").read(0, BYTES) == model
    assert raw(image.path, tmp_path) == model
    assert formats.check(image.path) == formats.ImageCheck()


def test_allocated_clusters_need_no_daemon(tmp_path: Path, image: ImageSpec) -> None:
    rows, data = batch((4096, b"b" * 4096), (3 * CLUSTER - 512, b"c" * 1024))
    with StorageDaemon([image], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write_batch(*batch((0, b"a" * (4 * CLUSTER))))
        writer.flush()
        with stopped(daemon.pid):
            writer.write_batch(rows, data)
            writer.drain()
        found = daemon.reader("root").read(0, 4 * CLUSTER)
    expected = bytearray(b"a" * (4 * CLUSTER))
    expected[4096:8192], expected[3 * CLUSTER - 512 : 3 * CLUSTER + 512] = b"b" * 4096, b"c" * 1024
    assert found == expected


def test_a_zeroed_cluster_is_the_daemons_until_the_flush(tmp_path: Path, image: ImageSpec) -> None:
    """Its old place may be another cluster's by now."""
    with StorageDaemon([image], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write_batch(*batch((0, b"a" * (2 * CLUSTER))))
        writer.flush()
        writer.write_batch(table([Extent(0, ZEROS, 0, CLUSTER, 0)]), memoryview(b""))
        writer.write_batch(*batch((8 * CLUSTER, b"b" * CLUSTER)))  # may be given the place that became free
        writer.write_batch(*batch((0, b"c" * 512)))
        writer.flush()
        reader = daemon.reader("root")
        assert reader.read(0, CLUSTER) == b"c" * 512 + bytes(CLUSTER - 512)
        assert reader.read(8 * CLUSTER, CLUSTER) == b"b" * CLUSTER


def test_a_cluster_that_reads_as_zeros_is_the_daemons(tmp_path: Path, image: ImageSpec) -> None:
    """It may keep its place, and with it what was there before."""
    with StorageDaemon([image], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write_batch(*batch((0, b"a" * (2 * CLUSTER))))
        writer.flush()
        other = nbd.NBD()
        other.set_export_name("root")
        other.connect_unix(str(daemon.socket))
        other.zero(CLUSTER, 0, nbd.CMD_FLAG_NO_HOLE)
        writer.flush()
        writer.write_batch(*batch((512, b"b" * 512)))
        writer.flush()
        expected = bytes(512) + b"b" * 512 + bytes(CLUSTER - 1024) + b"a" * CLUSTER
        assert daemon.reader("root").read(0, 2 * CLUSTER) == expected


def test_an_overlays_base_is_not_written_to(tmp_path: Path, image: ImageSpec) -> None:
    over = ImageSpec("root", tmp_path / "over.qcow2", "qcow2")
    with StorageDaemon([image], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write_batch(*batch((0, b"a" * (4 * CLUSTER))))
        writer.flush()
    formats.overlay(over.path, image.path, "qcow2")
    before = image.path.read_bytes()
    with StorageDaemon([over], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        for content in (b"b" * 512, b"c" * 1024):
            writer.write_batch(*batch((CLUSTER, content)))
            writer.flush()
        assert daemon.reader("root").read(CLUSTER, 2048) == b"c" * 1024 + b"a" * 1024
    assert image.path.read_bytes() == before


def test_compressed_clusters_are_the_daemons(tmp_path: Path, image: ImageSpec) -> None:
    plain, packed = tmp_path / "plain.raw", ImageSpec("root", tmp_path / "packed.qcow2", "qcow2")
    plain.write_bytes(b"x" * BYTES)
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", plain, packed.path], check=True)
    with StorageDaemon([packed], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write_batch(*batch((CLUSTER + 512, b"y" * 512)))
        writer.flush()
    assert raw(packed.path, tmp_path) == b"x" * (CLUSTER + 512) + b"y" * 512 + b"x" * (BYTES - CLUSTER - 1024)


def test_raw_needs_no_daemon_at_all(tmp_path: Path) -> None:
    spec = ImageSpec("root", tmp_path / "root.raw", "raw")
    formats.create(spec.path, BYTES, "raw")
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with stopped(daemon.pid):
            writer.write_batch(*batch((MIB, b"a" * 4096)))
            writer.drain()
        writer.flush()
        assert daemon.reader("root").read(MIB, 4096) == b"a" * 4096


@pytest.mark.parametrize("option", ["lazy_refcounts=on", "extended_l2=on", "compat=0.10", "encrypt.format=luks"])
def test_which_qcow2_is_written_to_directly(tmp_path: Path, option: str) -> None:
    path = tmp_path / "root.qcow2"
    secret = ["--object", "secret,id=s,data=x"] if option.startswith("encrypt") else []
    options = f"{option},encrypt.key-secret=s" if secret else option
    words = ["qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", options, path, "16M"]
    for _ in range(20):  # it measures how long its key takes, and gives up when the host is too busy for that
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    opened = DirectFile.open(path, "qcow2")
    assert (opened is not None) == (option == "lazy_refcounts=on")  # as long as it was closed well
    if opened:
        opened.close()


def test_an_image_that_becomes_dirty_is_the_daemons(tmp_path: Path) -> None:
    spec = ImageSpec("root", tmp_path / "root.qcow2", "qcow2")
    options = ["-o", "lazy_refcounts=on"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, spec.path, str(BYTES)], check=True)
    draw, model = random.Random(1), bytearray(BYTES)
    with StorageDaemon([spec], tmp_path / "run") as daemon:
        with daemon.writer("root") as writer:
            for _ in range(10):
                writer.write_batch(*random_batch(draw, model))
                writer.flush()
        assert daemon.reader("root").read(0, BYTES) == model
    assert raw(spec.path, tmp_path) == model


def test_a_snapshot_shares_clusters(tmp_path: Path, image: ImageSpec) -> None:
    subprocess.run(["qemu-img", "snapshot", "-c", "one", image.path], check=True)
    assert DirectFile.open(image.path, "qcow2") is None


def test_other_formats_are_the_daemons(tmp_path: Path) -> None:
    for form in ("vhdx", "vmdk"):
        formats.create(tmp_path / f"root.{form}", BYTES, form)
        assert DirectFile.open(tmp_path / f"root.{form}", form) is None


def test_a_failed_direct_write_stays(tmp_path: Path, image: ImageSpec) -> None:
    with StorageDaemon([image], tmp_path / "run") as daemon:
        direct = DirectFile.open(image.path, "qcow2")
        writer = ImageWriter(daemon.socket, "root", direct=direct)
        with writer, pytest.raises(StorageError, match="beyond"):
            writer.write_batch(*batch((BYTES, b"a" * 512)))
        with pytest.raises(StorageError, match="beyond"):
            writer.flush()


def test_a_reader_aside_needs_no_daemon(tmp_path: Path, image: ImageSpec) -> None:
    with StorageDaemon([image], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write_batch(*batch((0, b"a" * (4 * CLUSTER))))
        writer.flush()
        with daemon.reader("root", aside=writer) as reader:
            with stopped(daemon.pid):
                assert reader.read(512, 3 * CLUSTER) == b"a" * (3 * CLUSTER)
            assert reader.read(3 * CLUSTER, 2 * CLUSTER) == b"a" * CLUSTER + bytes(CLUSTER)  # the rest through it


def stamped(cluster: int, version: int) -> bytes:
    return (cluster << 32 | version).to_bytes(8, "little") * (CLUSTER // 8)


def test_a_reader_aside_never_sees_another_clusters_bytes(tmp_path: Path, image: ImageSpec) -> None:
    """Clusters lose their places and are given those of others all the time; each holds its own number everywhere."""
    count, draw, stop = BYTES // CLUSTER, random.Random(5), threading.Event()
    wrong, seen = list[tuple[int, int]](), [0]

    def look(reader: ImageReader) -> None:
        chosen = random.Random(6)
        while not stop.is_set():
            cluster = chosen.randrange(count)
            words = memoryview(reader.read(cluster * CLUSTER, CLUSTER)).cast("Q")
            wrong.extend((cluster, word >> 32) for word in (words[0], words[-1]) if word and word >> 32 != cluster)
            seen[0] += 1

    with StorageDaemon([image], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with daemon.reader("root", aside=writer) as reader:
            thread = threading.Thread(target=look, args=[reader])
            thread.start()
            for version in range(1, 600):
                picked = sorted(draw.sample(range(1, count), 40))
                freed, rest = picked[::2], picked[1::2]
                writer.write_batch(table([Extent(0, ZEROS, n * CLUSTER, CLUSTER, 0) for n in freed]), memoryview(b""))
                writer.write_batch(*batch(*((n * CLUSTER, stamped(n, version)) for n in rest)))
                writer.drain()
                if version % 3 == 0:
                    writer.flush()
            stop.set()
            thread.join()
    assert not wrong
    assert seen[0] > 100


def rest_of(rows: Table, draw: random.Random) -> Table:
    """Some of what these extents, ascending, leave alone: as rows to be read."""
    gaps, at = [], 0
    for offset, length in [*zip(rows["offset"].tolist(), rows["length"].tolist(), strict=True), (BYTES, 0)]:
        for begin in range(at, offset, CLUSTER):
            gaps.append((begin, min(CLUSTER, offset - begin), 0, 0))
        at = offset + length
    return np.array(sorted(draw.sample(gaps, min(len(gaps), 60))), RANGE)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_being_written_reads_as_it_was(tmp_path: Path, image: ImageSpec, seed: int) -> None:
    """Undo is read like this while the batch before it is written, also in the same clusters."""
    draw, model, wrong, seen = random.Random(seed), bytearray(BYTES), [], 0
    with StorageDaemon([image], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with daemon.reader("root", beside=writer) as reader:
            for number in range(60):
                rows, data = random_batch(draw, model)
                wanted = rest_of(rows, draw)
                expected = b"".join(model[offset : offset + length] for offset, length, _, _ in wanted.tolist())

                def write(rows: Table = rows, data: memoryview = data) -> None:
                    writer.write_batch(rows, data)
                    writer.drain()

                thread = threading.Thread(target=write)
                thread.start()
                is_last = False
                while not is_last:
                    is_last = not thread.is_alive()
                    found = bytearray(len(expected))
                    reader.read_rows(wanted, memoryview(found))
                    wrong += [number] if found != expected else []
                    seen += not is_last
                thread.join()
                if draw.random() < 0.3:
                    writer.flush()
    assert not wrong
    assert seen > 5, "never at the same time"
