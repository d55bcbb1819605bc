"""The rule about stamps sees each kind of fault, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proof.stamp import ENTRY, MAGIC, SECTOR, SequenceRule

SECTORS = 64
WEIGHTS = np.arange(1, 2 * SECTOR // 8, 2, dtype=np.uint64)

# (submitted, completed, sector): the third was submitted when the first two had completed, the second not the first.
WRITES = [(10, 30, 4), (20, 40, 5), (50, 60, 6), (55, 0, 7)]


def stamp(sector: int, sequence: int) -> bytes:
    """As proof/stamp.c fills a sector, without its noise."""
    words = np.zeros(SECTOR // 8, np.uint64)
    words[:5] = [MAGIC, 0, sector, sequence, 3]
    words[5] = (words * WEIGHTS).sum(dtype=np.uint64)
    return words.tobytes()


def image(*sequences: int) -> bytearray:
    """A disk that holds these writes."""
    content = bytearray(SECTORS * SECTOR)
    for sequence in sequences:
        put(content, WRITES[sequence - 1][2], sequence)
    return content


def put(content: bytearray, sector: int, sequence: int) -> None:
    content[sector * SECTOR : (sector + 1) * SECTOR] = stamp(sector, sequence)


@pytest.fixture
def rule(tmp_path: Path) -> SequenceRule:
    log: Any = np.zeros(8, ENTRY)
    for i, (submitted, completed, sector) in enumerate(WRITES):
        log[i] = (submitted, completed, sector, 1, 0, 3)
    log.tofile(tmp_path / "log")
    return SequenceRule(tmp_path / "log", [SECTORS * SECTOR])


@pytest.mark.parametrize("written", [(), (1,), (2,), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 3, 4)])
def test_states_that_a_power_cut_may_leave(rule: SequenceRule, written: tuple[int, ...]) -> None:
    assert rule.fault([image(*written)]) is None


@pytest.mark.parametrize("written", [(3,), (1, 3), (2, 3), (1, 4)])
def test_a_later_write_without_one_that_had_completed(rule: SequenceRule, written: tuple[int, ...]) -> None:
    fault = rule.fault([image(*written)])
    assert fault is not None
    assert "had completed" in fault.sentence


def test_what_was_there_and_is_gone(rule: SequenceRule) -> None:
    assert rule.fault([image(1, 2, 3)]) is None
    assert rule.fault([image(1, 3)]) is not None


def test_a_torn_stamp(rule: SequenceRule) -> None:
    content = image(1, 2)
    content[5 * SECTOR + 100] ^= 1
    fault = rule.fault([content])
    assert fault is not None
    assert "torn" in fault.sentence


def test_a_stamp_at_another_place(rule: SequenceRule) -> None:
    content = image(1)
    content[9 * SECTOR : 10 * SECTOR] = stamp(5, 2)
    assert rule.fault([content]) is not None


def test_bytes_lost_at_the_end(rule: SequenceRule) -> None:
    assert rule.lost_bytes([image(1, 2, 3)]) == 0
    assert rule.lost_bytes([image(1, 4)]) == 2 * SECTOR
