"""`python -m bench [PART …]`: measures, prints tables with the machine, writes build/bench.json. As root.

Without PART all of them, in the order of `PARTS`. A part that is measured alone replaces its figures in
build/bench.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import (
    cycles,
    daemons,
    disk,
    drbd,
    fleet,
    fullpath,
    growth,
    link,
    masters,
    pgbench,
    points,
    probe,
    redirect,
    sealed,
    switch,
    syncs,
    tables,
)
from bench import figures as f

RESULT = Path(__file__).resolve().parent.parent / "build" / "bench.json"
PARTS: dict[str, tuple[Callable[[], object], Callable[[object], None]]] = {
    "probe": (probe.measure, tables.probe),
    "disk": (disk.measure, tables.three_ways),
    "pgbench": (pgbench.measure, tables.three_ways),
    "link": (link.measure, link.show),
    "daemons": (daemons.measure, tables.plain),
    "fullpath": (fullpath.measure, tables.rows),
    "sealed": (sealed.measure, tables.rows),
    "syncs": (syncs.measure, tables.rows),
    "switch": (switch.measure, tables.rows),
    "cycles": (cycles.measure, tables.rows),
    "redirect": (redirect.measure, tables.rows),
    "points": (points.measure, tables.rows),
    "growth": (growth.measure, tables.rows),
    "masters": (masters.measure, tables.rows),
    "fleet": (fleet.measure, tables.rows),
    "drbd": (drbd.measure, drbd.show),
}


def main(parts: list[str]) -> int:
    if os.geteuid() != 0:
        print("error: the bench needs root\ncause: loop devices and BPF programs are root's\nhint: sudo make bench")
        return 4
    if unknown := set(parts) - PARTS.keys():
        print(f"error: no such part: {', '.join(unknown)}\ncause: there are: {', '.join(PARTS)}\nhint: make bench")
        return 2
    f.end_in_order()
    result = json.loads(RESULT.read_text()) if parts and RESULT.exists() else {}
    result["machine"] = f.machine()
    print(result["machine"])
    for name in parts or PARTS:
        measure, show = PARTS[name]
        begin = time.monotonic()
        result[name] = found = measure()
        print(f"\n{name}, {time.monotonic() - begin:.0f} s, load average {f.load()}")
        show(found)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
