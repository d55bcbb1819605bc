"""Memory is used again only when nobody looks at it any more."""

from __future__ import annotations

import gc
import threading

from rha._native import ffi
from rha.buffers import KEPT_BYTES, LEAST_BYTES, Buffers

KIB = 1024


def address(view: memoryview) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(view)))


def test_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(100 * KIB)
    assert len(first) == 100 * KIB
    assert not first.readonly
    where = address(first)
    del first
    assert buffers.kept_bytes == 128 * KIB
    second = buffers.take(128 * KIB)
    assert address(second) == where
    assert buffers.kept_bytes == 0


def test_a_slice_keeps_it() -> None:
    buffers = Buffers()
    whole = buffers.take(64 * KIB)
    whole[7:8] = b"x"
    part, lent = whole[7:8], ffi.from_buffer(whole[3:])
    del whole
    other = buffers.take(64 * KIB)
    other[:] = bytes(64 * KIB)
    assert bytes(part) == b"x"
    assert buffers.kept_bytes == 0
    del part
    assert buffers.kept_bytes == 0, "C still has it"
    del lent
    assert buffers.kept_bytes == 64 * KIB


def test_only_so_much_waits() -> None:
    buffers = Buffers(kept_bytes=200 * KIB)
    lent = [buffers.take(64 * KIB) for _ in range(8)]
    lent.clear()
    assert buffers.kept_bytes == 192 * KIB
    buffers.drain()
    assert buffers.kept_bytes == 0


def test_small_and_huge_are_not_kept() -> None:
    buffers = Buffers()
    for size in (0, 1, LEAST_BYTES - 1, (16 << 20) + 1):
        assert len(buffers.take(size)) == size
    assert buffers.kept_bytes == 0


def test_what_comes_back_while_something_is_taken() -> None:
    """The collector may run anywhere, and give back a buffer that was lost in a circle."""
    buffers, failures = Buffers(), []

    def work(mark: int) -> None:
        for _ in range(300):
            view = buffers.take(64 * KIB)
            circle: list[object] = [view]
            circle.append(circle)
            view[:8] = mark.to_bytes(8, "little")
            gc.collect(0)
            if view[:8] != mark.to_bytes(8, "little"):
                failures.append(mark)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not failures
    assert buffers.kept_bytes <= KEPT_BYTES
