"""Which blocks of a watched disk are a file's, whole."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.capture.device import lookup
from rha.capture.spared import BLOCK_SECTORS, MAX_RANGES, blocks_of, locate, volume_of
from rha.errors import StorageError

START = 2048


def test_neighbours_join_and_edges_are_left_out() -> None:
    extents = [(START + 200, START + 300), (START + 100, START + 200), (START + 1000, START + 1100)]
    assert blocks_of(extents, START) == ((START + 128, START + 256),)


def test_blocks_count_from_the_watched_disk_not_from_the_whole_one() -> None:
    assert blocks_of([(1000, 2000)], 1000) == ((1000, 1000 + 7 * BLOCK_SECTORS),)


def test_the_largest_pieces_are_kept() -> None:
    extents = [(i * 4096, i * 4096 + 256 + 128 * (i % 3)) for i in range(100)]
    found = blocks_of(extents, 0)
    assert len(found) == MAX_RANGES
    assert list(found) == sorted(found)
    assert sum(1 for begin, end in found if end - begin == 512) == 33


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 3000)), max_size=20), st.integers(0, 500))
def test_every_spared_sector_is_the_files(pieces: list[tuple[int, int]], start: int) -> None:
    extents, at = [], start
    for gap, length in pieces:  # a file's pieces do not overlap
        extents.append((at + gap, at + gap + length))
        at += gap + length
    mine = {sector for begin, end in extents for sector in range(begin, end)}
    for begin, end in blocks_of(extents, start):
        assert (begin - start) % BLOCK_SECTORS == (end - start) % BLOCK_SECTORS == 0
        assert mine.issuperset(range(begin, end))


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_places_are_where_the_bytes_are(
    loop_device: Callable[..., str], mounted: Callable[..., Path], kind: str
) -> None:
    """What is written into the file stands on the device in the sectors that were said, and nowhere else in them."""
    device = loop_device(512 << 20)
    point = mounted(device, kind)
    path = point / "file"
    with path.open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 64 << 20)
        os.fsync(file.fileno())
        found = locate(file.fileno(), path, [lookup(device)])
        file.write(b"\xa5" * (64 << 20))
        file.flush()
        os.fsync(file.fileno())
        assert locate(file.fileno(), path, [lookup(device)]) == found, "written, and at the same place"
    subprocess.run(["blockdev", "--flushbufs", device], check=True)
    assert sum(end - begin for begin, end in found.ranges) * 512 > 60 << 20
    with open(device, "rb") as disk:
        for begin, end in found.ranges:
            disk.seek(begin * 512)
            assert disk.read((end - begin) * 512).count(0xA5) == (end - begin) * 512


@pytest.mark.root
def test_holes_and_unknown_file_systems_are_refused(
    loop_device: Callable[..., str], mounted: Callable[..., Path]
) -> None:
    device = loop_device(256 << 20)
    point = mounted(device, "ext4")
    with (point / "sparse").open("w+b") as file:
        file.truncate(8 << 20)
        with pytest.raises(StorageError) as refused:
            locate(file.fileno(), point / "sparse", [lookup(device)])
        assert "have a place" in refused.value.cause
    with pytest.raises(StorageError) as refused:
        volume_of(Path("/dev/shm/file"), [lookup(device)])
    assert "tmpfs may write over a block somewhere else" in refused.value.cause
