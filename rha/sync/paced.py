"""How much of the master's disk a sync may have: bytes per second, and whether anybody else goes first."""

from __future__ import annotations

import ctypes
import os
import platform

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS, _CLASS_IDLE, _CLASS_SHIFT = 1, 3, 13


def give_way() -> bool:
    """Puts the calling thread into the idle class of I/O (ioprio_set(2), `ionice -c 3`). Schedulers that know classes
    (bfq, mq-deadline) then serve everybody else first; `none` takes no notice. False where the kernel refuses."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE << _CLASS_SHIFT)) == 0


def io_class(thread: int = 0) -> int:
    """The class of a thread's I/O, by default of the calling one; 0: none was set. Raises OSError."""
    number = _IOPRIO_SET[platform.machine()] + 1
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(number, _WHO_PROCESS, thread))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found >> _CLASS_SHIFT
