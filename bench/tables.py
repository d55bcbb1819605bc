"""What the measurements found, as tables for a terminal. Three figures are a median and (least-most)."""

from __future__ import annotations

from typing import Any

from bench.figures import text
from bench.ways import CAPTURED, SHIPPED


def table(heads: list[str], rows: list[list[str]]) -> None:
    """The first column to the left, all others to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip())


def probe(rows: Any) -> None:
    table(
        ["writes", "probe ns", "GB/s", "memcpy ns", "GB/s", "share of memcpy's speed"],
        [
            [
                row["name"],
                text(row["probe_ns"]),
                f"{row['probe_GBps']}",
                text(row["memcpy_ns"]),
                f"{row['memcpy_GBps']}",
                text(row["of_memcpy"]),
            ]
            for row in rows
        ],
    )


def three_ways(rows: Any) -> None:
    """Figures without rha, then the ratios of both ways to them."""
    for row in rows:
        fields = list(row[CAPTURED])
        units = {key.split("_")[0]: key for key in row if key.split("_")[0] in fields}
        table(
            [row["name"], "without rha", CAPTURED, SHIPPED],
            [
                [units[field], f"{row[units[field]]}", *(text(row[way][field]) for way in (CAPTURED, SHIPPED))]
                for field in fields
            ],
        )
        rest = {key: value for key, value in row.items() if key.startswith("engine") or key in ("lost", "load")}
        print(f"  {', '.join(f'{key} {value}' for key, value in rest.items())}\n")


def plain(found: Any) -> None:
    for key, value in found.items():
        print(f"{key:<36}{value}")


def rows(found: Any) -> None:
    """Figures of many kinds: each row's name, then a line a figure."""
    for row in found:
        print(row["name"])
        plain({f"  {key}": value for key, value in row.items() if key != "name"})
