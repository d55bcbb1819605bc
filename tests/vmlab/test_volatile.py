"""The disk that loses its cache, through QEMU's own NBD client."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from vmlab.volatile import VolatileDisk

BYTES = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[VolatileDisk]:
    with VolatileDisk(tmp_path, "store", BYTES, 1) as found:
        yield found


def connected(disk: VolatileDisk) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_unix(str(disk.socket))
    return handle


def test_what_was_flushed_stays_and_what_was_not_is_left_to_chance(disk: VolatileDisk) -> None:
    handle = connected(disk)
    handle.pwrite(b"a" * 4096, 0)
    handle.flush()
    for number in range(1, 101):
        handle.pwrite(b"b" * 4096, 4096 * number)
        assert handle.pread(4096, 4096 * number) == b"b" * 4096, "a machine that runs sees what it wrote"
    disk.fail()
    del handle
    fate = disk.settle()
    assert fate.lost + fate.kept + fate.torn == 100
    assert min(fate) > 10
    left = disk.file.read_bytes()
    assert left[:4096] == b"a" * 4096
    whole = sum(left[at : at + 4096] == b"b" * 4096 for at in range(4096, 4096 * 101, 4096))
    none = sum(not any(left[at : at + 4096]) for at in range(4096, 4096 * 101, 4096))
    assert fate.kept <= whole <= fate.kept + fate.torn
    assert fate.lost <= none <= fate.lost + fate.torn
    again = connected(disk)
    assert again.pread(BYTES, 0) == left, "after the cut everybody sees what is left"


def test_a_write_through_is_on_the_disk_with_all_before_it(disk: VolatileDisk) -> None:
    handle = connected(disk)
    handle.pwrite(b"a" * 512, 0)
    handle.pwrite(b"b" * 512, 512, nbd.CMD_FLAG_FUA)
    disk.fail()
    del handle
    assert disk.settle() == (0, 0, 0)
    assert disk.file.read_bytes()[:1024] == b"a" * 512 + b"b" * 512


def test_a_failure_waits_for_its_number_of_writes(disk: VolatileDisk) -> None:
    handle = connected(disk)
    failing = threading.Thread(target=disk.fail, args=(60.0, 5))
    failing.start()
    for number in range(4):
        handle.pwrite(b"a" * 512, 512 * number)
    assert failing.is_alive()
    sent = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), 2048)
    failing.join(30)
    assert not failing.is_alive()
    del handle, sent
    assert sum(disk.settle()) == 5


def test_a_failure_does_not_wait_for_ever(disk: VolatileDisk) -> None:
    disk.fail(0.01, 5)
    assert sum(disk.settle()) == 0


def test_qemu_uses_it(disk: VolatileDisk) -> None:
    """qemu-io flushes when it ends."""
    words = ["qemu-io", "-f", "raw", "-c", "write -P 7 4096 8192", f"nbd+unix:///?socket={disk.socket}"]
    subprocess.run(words, check=True, capture_output=True)
    assert disk.file.read_bytes()[4096:12288] == b"\7" * 8192
