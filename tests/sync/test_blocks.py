"""Digests of blocks, and reads beside the file system."""

from __future__ import annotations

import os
import random
import weakref
from pathlib import Path

import pytest
from blake3 import blake3

from rha.errors import DeviceError, StateError
from rha.sync.blocks import AHEAD, BLOCK_BYTES, DIGEST_BYTES, DiskReader, differing, digests
from rha.sync.plan import Piece, pieces

FILE_BYTES = 5 * BLOCK_BYTES + 512


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(FILE_BYTES))
    return path


def never() -> None:
    """The wait goes on."""


def test_one_digest_a_block_the_last_one_shorter() -> None:
    data = random.Random(2).randbytes(2 * BLOCK_BYTES + 512)
    found = digests(memoryview(data))
    parts = [data[:BLOCK_BYTES], data[BLOCK_BYTES : 2 * BLOCK_BYTES], data[2 * BLOCK_BYTES :]]
    assert found == b"".join(blake3(part).digest()[:DIGEST_BYTES] for part in parts)


def test_differing_says_which() -> None:
    data = bytearray(4 * BLOCK_BYTES)
    before = digests(memoryview(data))
    data[BLOCK_BYTES] ^= 1
    data[4 * BLOCK_BYTES - 1] ^= 1
    assert differing(before, digests(memoryview(data))) == b"\0\1\0\1"


def test_reads_what_is_there(file: Path) -> None:
    with DiskReader(str(file), check=never) as reader:
        buffer, view = reader.read(BLOCK_BYTES, 2 * BLOCK_BYTES)
        assert view == file.read_bytes()[BLOCK_BYTES : 3 * BLOCK_BYTES]
        reader.release(buffer)
        _, view = reader.read(5 * BLOCK_BYTES, 512)
        assert view == file.read_bytes()[-512:]


def test_reads_ahead_in_order(file: Path) -> None:
    """The buffers are fewer than the pieces, and given back late."""
    content, held = file.read_bytes(), []
    with DiskReader(str(file), check=never, buffers=5) as reader:
        wanted = pieces(lambda start, _: (start, 1) if start < 6 else None, FILE_BYTES)
        for number, (piece, buffer, view) in enumerate(reader.ahead(wanted)):
            assert (piece.first, view) == (number, content[piece.offset : piece.offset + piece.length])
            held.append(buffer)
            if len(held) > 1:
                reader.release(held.pop(0))
    assert number == 5


def test_a_piece_is_asked_for_only_when_its_reading_begins(file: Path) -> None:
    """What it is paced by and what is pending are looked at then."""
    asked: list[int] = []

    def next_run(start: int, longest: int) -> tuple[int, int] | None:
        asked.append(start)
        return (0, 1)

    with DiskReader(str(file), check=never, buffers=8) as reader:
        endless = reader.ahead(Piece(*run, 0, BLOCK_BYTES) for run in iter(lambda: next_run(0, 1), None))
        next(endless)
        assert 1 <= len(asked) <= AHEAD + 1


def test_what_goes_wrong_ahead_is_raised_and_nothing_is_read_after_the_end(file: Path) -> None:
    beyond = Piece(6, 1, 6 * BLOCK_BYTES, BLOCK_BYTES)
    with DiskReader(str(file), check=never, buffers=1) as reader, pytest.raises(DeviceError, match="shorter"):
        list(reader.ahead(iter([beyond])))
    with DiskReader(str(file), check=never, buffers=1) as reader:  # its second read waits for a buffer for ever
        next(reader.ahead(Piece(n, 1, n * BLOCK_BYTES, BLOCK_BYTES) for n in range(4)))
    with pytest.raises(RuntimeError):
        next(reader.ahead(iter([beyond])))


def test_buffers_end_with_the_reading(file: Path) -> None:
    """A sync's rounds and callbacks keep its reader: the buffers of one sync must not still be there in the next."""
    with DiskReader(str(file), check=never, buffers=2) as reader:
        late, view = reader.read(0, BLOCK_BYTES)
        view.release()
    other = weakref.ref(late)
    reader.release(late)
    del late
    assert other() is None


def test_a_disk_that_shrank_is_named(file: Path) -> None:
    with DiskReader(str(file), check=never) as reader:
        os.truncate(file, BLOCK_BYTES)
        with pytest.raises(DeviceError, match="shorter than it was") as caught:
            reader.read(0, 2 * BLOCK_BYTES)
    assert caught.value.cause == f"{BLOCK_BYTES} of {2 * BLOCK_BYTES} bytes at 0"


def test_a_missing_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be opened"):
        DiskReader(str(tmp_path / "none"), check=never)


def test_the_wait_for_a_buffer_ends_when_the_caller_says_so(file: Path) -> None:
    def stop() -> None:
        raise StateError("enough")

    with DiskReader(str(file), check=stop, buffers=1) as reader:
        reader.read(0, 512)
        with pytest.raises(StateError, match="enough"):
            reader.read(0, 512)
