"""The calibration on this kernel, undisturbed and with a page that the kernel moves."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Any

import pytest

from rha.capture import calibrate, probe, scratch
from rha.errors import HostError

pytestmark = pytest.mark.root


def layout(tries: int = probe.TRIES) -> tuple[int, int]:
    with scratch.device() as (path, fd):
        return probe.find_memory_layout(probe._Compiler(probe.kernel_flags()), path, fd, tries)


def move(page: calibrate.KnownPage) -> None:
    """Into another frame, with its content, as compaction does."""
    libc, before, taken = ctypes.CDLL(None), page.frame, []
    address, length = ctypes.c_void_p(page._address), ctypes.c_size_t(mmap.PAGESIZE)
    while page.frame == before:
        assert libc.munlock(address, length) == 0
        page.buffer.madvise(mmap.MADV_REMOVE)  # what is freed may come back at once: somebody else takes it
        taken.append(mmap.mmap(-1, mmap.PAGESIZE))
        taken[-1][:] = bytes(mmap.PAGESIZE)
        page.buffer[:] = page.content
        assert libc.mlock(address, length) == 0


def moving(monkeypatch: pytest.MonkeyPatch, times: int) -> Callable[[], int]:
    """The page is moved between the question for its frame and its write, so many times. Returns how often it was."""
    real, moved, pages = os.pwritev, 0, list[calibrate.KnownPage]()

    class Watched(calibrate.KnownPage):
        def __init__(self) -> None:
            super().__init__()
            pages.append(self)

    def write(fd: int, buffers: Any, offset: int) -> int:
        nonlocal moved
        if moved < times:
            moved += 1
            move(pages[0])
        return real(fd, buffers, offset)

    monkeypatch.setattr(calibrate, "KnownPage", Watched)
    monkeypatch.setattr(os, "pwritev", write)
    return lambda: moved


def test_the_layout_is_aligned_and_the_same_each_time() -> None:
    found = layout()
    assert all(address % (1 << 21) == 0 for address in found)
    assert layout() == found


def test_a_page_that_was_moved_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = layout()
    times = moving(monkeypatch, 3)
    assert layout() == expected
    assert times() == 3


def test_a_page_that_never_stands_still_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = moving(monkeypatch, 1000)
    with pytest.raises(HostError, match="cannot be read"):
        layout(tries=4)
    assert times() == 4
