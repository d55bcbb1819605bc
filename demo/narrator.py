"""The story on the terminal: one line per step with the time since the start; a moving line while something lasts."""

from __future__ import annotations

import sys
import time

PLAIN_EVERY_SECONDS = 10.0


class Narrator:
    """`say` ends a step, `progress` shows where a long one stands (without a terminal: a line now and then)."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._moving = False
        self._last_plain = self._began

    def say(self, text: str) -> None:
        self._wipe()
        print(self._line(text), flush=True)
        self._last_plain = time.monotonic()

    def progress(self, text: str) -> None:
        if sys.stdout.isatty():
            self._wipe()
            print(self._line(text), end="", flush=True)
            self._moving = True
        elif time.monotonic() - self._last_plain >= PLAIN_EVERY_SECONDS:
            self.say(text)

    def _line(self, text: str) -> str:
        return f"{time.monotonic() - self._began:6.1f} s  {text}"

    def _wipe(self) -> None:
        if self._moving:
            print("\r\x1b[K", end="")
            self._moving = False
