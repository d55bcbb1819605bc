"""Is it worth asking once more, page by page, about a block of 64 KiB that differs? Pure.

Random writes of 4 KiB to 1 % of a disk make 15 % of its 64 KiB blocks differ. Asking again costs 0.4 % of what is asked
about, a second digest on both sides and a turn over the line; it is worth that where less than half of the pages
differ. Whether they do is learnt from the answers. Asking by pages from the start was rejected: at 4 KiB the digests of
a disk are sixteen times as many bytes, and hashing them is eight times slower (0.7 against 5 GB/s on one core).
"""

from __future__ import annotations

from dataclasses import dataclass

WORTH_SHARE = 0.5  # of what was asked about and differs after all
PROBE_EVERY = 8  # blocks that are asked about though it was not worth it, in case that has changed
_MEMORY = 0.9


@dataclass
class Refinement:
    """`differing` of `asked` bytes differed, old answers fading."""

    asked: float = 0.0
    differing: float = 0.0
    _passed: int = 0

    def is_worth(self) -> bool:
        """Shall the next run of differing blocks be asked about by page?"""
        if self.differing < WORTH_SHARE * self.asked or not self.asked:
            return True
        self._passed = (self._passed + 1) % PROBE_EVERY
        return self._passed == 0

    def learn(self, asked: int, differing: int) -> None:
        """An answer: of `asked` bytes these differ."""
        self.asked = self.asked * _MEMORY + asked
        self.differing = self.differing * _MEMORY + differing
