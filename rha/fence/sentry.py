"""The sentry: a process of its own that lets this master serve while its permit lasts, and ends it when it is over.

    python -m rha.fence.sentry PERMIT

Of its own, since what must end in time must not depend on the engine: it may be killed, stopped (SIGSTOP), starved of
memory, or hang in a disk's driver, and the sentry goes on counting. It outlives the engine (KillMode=process) and takes
orders from the next one through the same file. What it looks at is small: one file, one clock. One of them a scenario
(a lock on `PERMIT.lock`); it ends when serving has ended and no engine is there any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rha.errors import RhaError
from rha.fence import permit, terms
from rha.fence.permit import Permit, Standing
from rha.fence.serving import Host, Serving

LOOK_SECONDS = 0.1
SYSTEM = Host()
ENFORCE_SECONDS = 2.0  # once serving has ended: does it stay so?
RETRY_SECONDS = 1.0
_MCL_CURRENT, _MCL_FUTURE = 1, 2  # sys/mman.h


class Sentry:
    """One scenario's. `step` is called again and again; it never waits longer than a question to systemd may take."""

    def __init__(self, path: Path, host: Host = SYSTEM, now: Callable[[], float] = terms.now) -> None:
        self._path, self._host, self._now = path, host, now
        self._serving: Serving | None = None
        self._permit: Permit | None = None
        self._prolonged = 0.0
        self._again = 0.0
        self._state, self._why = "", ""

    def step(self) -> bool:
        """Looks and acts once. False: there is nothing left to watch over."""
        found = permit.load(self._path)
        if found and (self._serving is None or self._permit is None or found.lease != self._permit.lease):
            self._change_to(found)
        self._permit = found or self._permit
        if self._serving is None or self._permit is None:
            return False  # there never was a permit of this boot: nothing was ever begun by us
        left = found.until - self._now() if found else 0.0
        if found and left > 0:
            self._serve(found, left)
        else:
            self._end(found.why if found else "the permit is gone")
        return self._state not in ("ended",) or _is_alive(self._permit.engine)

    def _change_to(self, found: Permit) -> None:
        """The scenario was edited: what the old one named and the new one does not, ends."""
        if self._serving is not None:
            self._serving.end()
        self._serving, self._state = Serving(found.lease, _say, self._host), ""

    def _serve(self, found: Permit, left: float) -> None:
        assert self._serving is not None
        if self._state == "serving":
            if found.until > self._prolonged:
                self._prolonged = found.until
                self._guarded(lambda serving: serving.prolong(left))
                self._look_again(found)
            return
        if self._now() < self._again:
            return
        self._prolonged = found.until
        is_done = self._guarded(lambda serving: serving.begin(left))
        if is_done is not None:
            self._tell("serving" if is_done else "starting", "the lease is held")
        self._again = self._now() + (0.0 if is_done is False else RETRY_SECONDS)
        self._look_again(found)

    def _look_again(self, found: Permit) -> None:
        """Stopped (SIGSTOP) between the look at the clock and the act, it may just have begun what was to end."""
        if self._now() >= found.until:
            self._state = ""
            self._end(found.why)

    def _guarded(self, act: Callable[[Serving], bool | None]) -> bool | None:
        """None: it failed, which was told."""
        assert self._serving is not None
        try:
            return act(self._serving)
        except (RhaError, OSError) as error:
            self._tell("failed", str(error).replace("\n", "; "))
            return None

    def _end(self, why: str) -> None:
        assert self._serving is not None
        if self._state == "ended" and self._now() < self._again:
            return
        begun = self._now()
        left = self._serving.end()
        if not left:
            self._tell("ended", why)
        else:
            self._tell("failed", f"{why}, but {'; '.join(left)}")
            self._serving.last_resort()
        self._again = begun + ENFORCE_SECONDS

    def _tell(self, state: str, why: str) -> None:
        if (state, why) == (self._state, self._why):
            return
        self._state, self._why = state, why
        _say(f"{state}: {why}")
        with contextlib.suppress(RhaError):  # what it does is more than what it says
            permit.store(
                standing_path(self._path), Standing(state=state, why=why, since=self._now(), process=os.getpid())
            )


def standing_path(path: Path) -> Path:
    """Where the sentry of a permit says how it stands."""
    return path.with_suffix(".standing")


def lock(path: Path) -> int | None:
    """The lock of a permit's only sentry; None: it has one. The kernel lets go when the process dies."""
    file = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _say(sentence: str) -> None:
    print(f"rha sentry: {sentence}", file=sys.stderr, flush=True)


def _is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def _be_hard_to_kill() -> None:
    """Memory locked, last in the queue of the OOM killer, first in the processor's. What is refused is done without."""
    ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    with contextlib.suppress(OSError):
        os.nice(-10)


def main(path: Path, host: Host = SYSTEM) -> int:
    """Runs until nothing is left to watch over. 0 also when another sentry is at work."""
    file = lock(path)
    if file is None:
        return 0
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # only the end of the lease ends it
    _be_hard_to_kill()
    sentry = Sentry(path, host)
    while sentry.step():
        time.sleep(LOOK_SECONDS)
    os.close(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Host(systemctl=tuple(sys.argv[2:]) or SYSTEM.systemctl)))
