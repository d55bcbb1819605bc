"""The freezer: a process of its own that freezes file systems and thaws them again, whatever happens to who wanted it.

    python -I -S freezer.py SECONDS FD…

FD: an open directory of each file system, frozen in this order, thawed in the opposite one. It says `frozen`, and thaws
as soon as its standard input has something to read: a byte (let go), or its end (who wanted it is dead); at the latest
SECONDS after it began. Its last word says whether they were frozen all the time: `held`, or `late`, `lost FD` (somebody
else thawed it), `refused FD ERRNO`, `killed`.

It is two processes, since whoever is killed between FIFREEZE and FITHAW leaves the master hanging: the worker does it,
the guard waits for the worker's end and thaws what one that was killed, or hangs, left behind. Signals end neither, but
for SIGKILL, which would have to be sent to both at once. Nothing of rha is imported: it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # include/uapi/linux/fs.h
LATE_SECONDS = 1.0  # by which the worker may be behind the limit before the guard acts
RETRY_SECONDS = 0.05
_DONE = 0  # no directory has this number: it is standard input
_MCL_CURRENT, _MCL_FUTURE = 1, 2  # sys/mman.h


def work(directories: list[int], until: float, guard: int) -> str:
    """Freezes, waits, thaws; returns the last word. Tells the guard each directory before it is frozen."""
    frozen: list[int] = []
    lost: list[int] = []
    try:
        for directory in directories:
            os.write(guard, bytes([directory]))
            fcntl.ioctl(directory, FIFREEZE, 0)
            frozen.append(directory)
        say("frozen")
        is_told = bool(select.select([0], [], [], max(0.0, until - time.monotonic()))[0])
        word = "held" if is_told and time.monotonic() < until else "late"
    except OSError as error:
        word = f"refused {directory} {error.errno}"
    finally:
        lost = [directory for directory in reversed(frozen) if not thaw(directory)]
        os.write(guard, bytes([_DONE]))
    return f"lost {lost[0]}" if lost else word


def thaw(directory: int) -> bool:
    """False: it was not frozen any more."""
    try:
        fcntl.ioctl(directory, FITHAW, 0)
    except OSError:
        return False
    return True


def watch(worker: int, told: int, until: float) -> str:
    """Waits for the worker's end. Returns the last word when it is the guard's, else nothing."""
    tried: list[int] = []
    word = "killed"
    while (left := until + LATE_SECONDS - time.monotonic()) > 0:
        if not select.select([told], [], [], left)[0]:
            word = "late"
            break
        numbers = os.read(told, 256)
        if not numbers:
            break
        tried += numbers
    if _DONE in tried:
        return ""
    os.kill(worker, signal.SIGKILL)  # inside FIFREEZE it dies only when the kernel comes back from it
    for thawer in [fork(partial(thaw_left, directory, told)) for directory in tried]:
        os.waitpid(thawer, 0)
    return word


def thaw_left(directory: int, told: int) -> None:
    """Thaws what the worker may have left frozen, or is freezing at this moment: then FITHAW is refused until that is
    done. Each in a process of its own: one may have to wait for another that lies below it."""
    ends = select.poll()
    ends.register(told, 0)  # the worker's end shows as a hang-up
    is_dead = False
    while not thaw(directory) and not is_dead:
        is_dead = bool(ends.poll(RETRY_SECONDS * 1000))


def fork(act: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        act()
    finally:
        os._exit(0)


def say(word: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(1, word.encode() + b"\n")


def be_hard_to_kill() -> None:
    """What is refused is done without."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")


def begin(directories: list[int], until: float, told: int, guard: int) -> None:
    os.close(told)
    be_hard_to_kill()  # locked memory is not inherited
    say(work(directories, until, guard))


def main(seconds: float, directories: list[int]) -> None:
    until = time.monotonic() + seconds
    be_hard_to_kill()
    told, guard = os.pipe()
    worker = fork(partial(begin, directories, until, told, guard))
    os.close(guard)
    word = watch(worker, told, until)
    os.waitpid(worker, 0)
    if word:
        say(word)


if __name__ == "__main__":
    main(float(sys.argv[1]), [int(word) for word in sys.argv[2:]])
