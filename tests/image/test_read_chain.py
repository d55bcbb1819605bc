"""Reading aside of the writer, through overlays. The oracle is a bytearray, or QEMU itself."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rha.image import formats
from rha.image.chain import Backing, DirectReader, backing_of
from rha.image.direct import DirectFile
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.journal.extents import ZEROS, Extent, table
from tests.image.test_direct import BYTES, CLUSTER, batch, random_batch, stamped, stopped


def layered(folder: Path, content: bytes, kinds: Sequence[str] = ("qcow2", "qcow2")) -> ImageSpec:
    """A chain of images, the lowest first, which holds the content from its begin on."""
    below = ImageSpec("root", folder / f"0.{kinds[0]}", kinds[0])
    formats.create(below.path, BYTES, "raw" if kinds[0] == "raw" else "qcow2" if kinds[0] == "qcow2" else "vhdx")
    with StorageDaemon([below], folder / "made") as daemon, daemon.writer("root") as writer:
        writer.write(0, content)
        writer.flush()
    for number, kind in enumerate(kinds[1:], 1):
        above = ImageSpec("root", folder / f"{number}.{kind}", kind)
        formats.overlay(above.path, below.path, below.format)
        below = above
    return below


@pytest.mark.parametrize("kinds", [("qcow2", "qcow2"), ("raw", "qcow2"), ("qcow2", "qcow2", "qcow2")], ids="-".join)
def test_what_an_overlay_does_not_have_is_read_below_it(tmp_path: Path, kinds: Sequence[str]) -> None:
    content = random.Random(1).randbytes(6 * CLUSTER)
    spec = layered(tmp_path, content, kinds)
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write(CLUSTER + 512, b"n" * 512)
        writer.flush()
        expected = bytearray(content + bytes(BYTES - len(content)))
        expected[CLUSTER + 512 : CLUSTER + 1024] = b"n" * 512
        with daemon.reader("root", aside=writer) as reader, stopped(daemon.pid):
            assert reader.read(0, BYTES) == expected
            assert reader.read(CLUSTER + 700, 5 * CLUSTER) == expected[CLUSTER + 700 : 6 * CLUSTER + 700]


def test_a_kind_that_only_qemu_reads_is_left_to_it(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(2 * CLUSTER)
    spec = layered(tmp_path, content, ("vhdx", "qcow2"))
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with daemon.reader("root", aside=writer) as reader:
            assert reader.read(0, 3 * CLUSTER) == content + bytes(CLUSTER)
        assert writer.direct
        aside = DirectReader(writer.direct)
        assert aside.read(0, memoryview(bytearray(CLUSTER))) == 0
        aside.close()


def test_an_image_without_a_base_has_zeros(tmp_path: Path) -> None:
    spec = ImageSpec("root", tmp_path / "root.qcow2", "qcow2")
    formats.create(spec.path, BYTES)
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with daemon.reader("root", aside=writer) as reader, stopped(daemon.pid):
            assert reader.read(512, BYTES - 512) == bytes(BYTES - 512)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_written_is_seen_at_once(tmp_path: Path, seed: int) -> None:
    """Also before a flush, when the tables in the file know nothing of it."""
    draw = random.Random(seed)
    content = draw.randbytes(BYTES // 2)
    model = bytearray(content + bytes(BYTES - len(content)))
    spec = layered(tmp_path, content)
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with daemon.reader("root", aside=writer) as reader:
            for _ in range(60):
                writer.write_batch(*random_batch(draw, model, zeros=0.2 if draw.random() < 0.2 else 0.0))
                writer.drain()
                if draw.random() < 0.3:
                    writer.flush()
                at = draw.randrange(BYTES // 512) * 512
                length = min(draw.choice([512, CLUSTER, 40 * CLUSTER]), BYTES - at)
                assert reader.read(at, length) == model[at : at + length]
            assert reader.read(0, BYTES) == model


def test_nothing_is_read_below_that_was_written_meanwhile(tmp_path: Path) -> None:
    """Whoever begins to read after a write has ended sees it, whatever the writer does next to it."""
    count, draw, stop = BYTES // CLUSTER, random.Random(5), threading.Event()
    least, wrong, seen = [0] * count, list[tuple[int, int, int]](), [0]
    spec = layered(tmp_path, b"".join(stamped(number, 0) for number in range(count)))
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with daemon.reader("root", aside=writer) as reader:

            def look() -> None:
                chosen = random.Random(6)
                while not stop.is_set():
                    cluster = chosen.randrange(count)
                    version = least[cluster]
                    word = memoryview(reader.read(cluster * CLUSTER, 512)).cast("Q")[0]
                    if word >> 32 != cluster or word & 0xFFFFFFFF < version:
                        wrong.append((cluster, word, version))
                    seen[0] += 1

            thread = threading.Thread(target=look)
            thread.start()
            for version in range(1, 300):
                picked = sorted(draw.sample(range(count), 20))
                writer.write_batch(*batch(*((number * CLUSTER, stamped(number, version)) for number in picked)))
                writer.drain()
                for number in picked:
                    least[number] = version
                if version % 5 == 0:
                    writer.flush()
            stop.set()
            thread.join()
    assert not wrong
    assert seen[0] > 100


def test_zeroed_ranges_are_not_the_bases(tmp_path: Path) -> None:
    spec = layered(tmp_path, b"b" * (4 * CLUSTER))
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        with daemon.reader("root", aside=writer) as reader:
            writer.write_batch(table([Extent(0, ZEROS, CLUSTER, CLUSTER, 0)]), memoryview(b""))
            writer.drain()
            expected = b"b" * CLUSTER + bytes(CLUSTER) + b"b" * CLUSTER
            assert reader.read(0, 3 * CLUSTER) == expected
            writer.flush()
            assert reader.read(0, 3 * CLUSTER) == expected


def test_a_raw_image_names_no_base(tmp_path: Path) -> None:
    """What stands on the disk is the master's: it must not have us read files of the appliance."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * CLUSTER)
    trap = tmp_path / "trap.qcow2"
    formats.create(trap, BYTES)
    formats.overlay(tmp_path / "fake.qcow2", trap, "qcow2")
    head = bytearray((tmp_path / "fake.qcow2").read_bytes()[: 2 * CLUSTER])
    place, length = struct.unpack_from(">QI", head, 8)
    head[place : place + length] = str(secret).encode().ljust(length, b"/")
    spec = ImageSpec("root", tmp_path / "root.raw", "raw")
    formats.create(spec.path, BYTES, "raw")
    with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write(0, head)
        writer.flush()
        with daemon.reader("root", aside=writer) as reader:
            assert reader.read(0, len(head)) == head


def test_the_name_and_format_of_a_base(tmp_path: Path) -> None:
    below = tmp_path / "b,e l,ow.raw"
    formats.create(below, BYTES, "raw")
    formats.overlay(tmp_path / "over.qcow2", below, "raw")
    opened = DirectFile.open(tmp_path / "over.qcow2", "qcow2")
    assert opened
    assert backing_of(opened.fileno()) == Backing(below, "raw")
    opened.close()
