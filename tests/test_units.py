from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.units import parse_bytes, parse_rate, parse_seconds, printable, show_bytes, show_seconds

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_sizes(count: int, unit: str, space: str) -> None:
    assert parse_bytes(f"{count}{space}{unit}") == count * UNITS[unit]


@pytest.mark.parametrize("text", ["", "64", "64K", "64kib", "-1KiB", "1.5GiB", "KiB", "64KiB ", "0x10B", "1 PiB"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; write for example 64KiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20MiB/s", 20 << 20), ("64 KiB/s", 64 << 10), ("100Mbit/s", 12_500_000), ("8kbit/s", 1000), ("unlimited", 0)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "20", "20MiB", "20MB/s", "0MiB/s", "1.5MiB/s", "-1MiB/s", "20mbit/s", "none"])
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate; write for example 20MiB/s"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("1.5 s", 1.5), ("2min", 120), ("1h", 3600), ("7d", 604800), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5m", "5 sec", "-1s", ".5s", "1e3s", "inf", "nan s"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write for example 500ms"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1023 << 10, "1023 KiB"),
        (1 << 20, "1 MiB"),
        (1.25 * 2**30, "1.25 GiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_shown_sizes(count: float, shown: str) -> None:
    assert show_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.000059, "0.059 ms"),
        (0.0042, "4.2 ms"),
        (0.354, "0.35 s"),
        (12.4, "12 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_shown_durations(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_a_terminal_obeys_no_text_of_others() -> None:
    assert printable("a\x1b[2Jb\x9b\r\nc\u202e ä €") == "a\\x1b[2Jb\\x9b\\r\nc\\u202e ä €"
