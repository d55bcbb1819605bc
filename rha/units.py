"""Sizes and durations as people write them; texts of others as a terminal may show them."""

from __future__ import annotations

import re

_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `64KiB` or `2 GiB`.

    Raises ValueError naming the accepted forms.
    """
    found = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB|TiB)", text)
    if not found:
        raise ValueError(f"{text!r} is no size; write for example 64KiB, 256MiB, 2GiB")
    return int(found[1]) * _SIZES[found[2]]


def parse_seconds(text: str) -> float:
    """Seconds of a duration such as `500ms`, `5s`, `2min`, `1h`, `7d`.

    Raises ValueError naming the accepted forms.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)", text)
    if not found:
        raise ValueError(f"{text!r} is no duration; write for example 500ms, 5s, 2min, 1h")
    return float(found[1]) * _SECONDS[found[2]]


_RATES = {f"{unit}/s": size for unit, size in _SIZES.items()} | {
    "kbit/s": 125,
    "Mbit/s": 125_000,
    "Gbit/s": 125_000_000,
}


def parse_rate(text: str) -> int:
    """Bytes per second of a rate such as `20MiB/s` or `100Mbit/s`; 0 for `unlimited`.

    Raises ValueError naming the accepted forms.
    """
    if text == "unlimited":
        return 0
    found = re.fullmatch(rf"(\d+)\s*({'|'.join(_RATES)})", text)
    if not found or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no rate; write for example 20MiB/s, 100Mbit/s, unlimited")
    return int(found[1]) * _RATES[found[2]]


def show_bytes(count: float) -> str:
    """A size for people, binary units, three significant digits: `1.25 GiB`."""
    for unit, size in reversed(_SIZES.items()):
        if abs(count) >= size and unit != "B":
            return f"{count / size:.3g} {unit}" if count / size < 1000 else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def show_seconds(seconds: float) -> str:
    """A duration for people: `0.059 ms`, `0.35 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if 0 < seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    """A text of another host without what a terminal would obey: line ends stay, other control characters are shown as
    `\\x1b`."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
