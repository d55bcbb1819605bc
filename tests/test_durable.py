"""Small files replaced as a whole, on a file system that is full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rha import durable


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.root
def test_a_replacement_that_finds_no_room_leaves_what_was(small: Path) -> None:
    file = small / "state.json"
    durable.replace(file, b"old")
    with pytest.raises(OSError, match="No space left"):
        durable.replace(file, bytes(1 << 20))
    assert file.read_bytes() == b"old"
    assert [*small.iterdir()] == [file]
    durable.replace(file, b"new")
    assert file.read_bytes() == b"new"


def test_only_a_folder_is_synced_as_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    durable.sync_folder(tmp_path)
    durable.sync_file(file)
    with pytest.raises(NotADirectoryError):
        durable.sync_folder(file)
