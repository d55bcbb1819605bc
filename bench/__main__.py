"""`python -m bench`: measures, prints a table with the machine, writes build/bench.json. As root."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from bench import daemons, disk, probe

RESULT = Path(__file__).resolve().parent.parent / "build" / "bench.json"


def main() -> int:
    if os.geteuid() != 0:
        print("error: the bench needs root\ncause: loop devices and BPF programs are root's\nhint: sudo make bench")
        return 4
    result: dict[str, object] = {"machine": _machine()}
    print(result["machine"])
    result["probe"] = rows = probe.measure()
    print(f"\n{'probe':<28}{'ns/write':>10}{'GB/s':>8}{'memcpy ns':>11}{'GB/s':>8}{'of memcpy':>11}")
    for row in rows:
        print(
            f"{row['name']:<28}{row['probe_ns']:>10}{row['probe_GBps']:>8}{row['memcpy_ns']:>11}"
            f"{row['memcpy_GBps']:>8}{row['of_memcpy']:>11}"
        )
    result["disk"] = rows = disk.measure()
    print(f"\n{'fio, without / captured':<28}{'IOPS':>9}{'IOPS':>9}{'ratio':>7}  {'range':<14}{'p99 ratio':>10}")
    for row in rows:
        print(
            f"{row['name']:<28}{row['iops_plain']:>9}{row['iops_captured']:>9}{row['iops_ratio']:>7}  "
            f"{row['iops_ratio_range']!s:<14}{row['p99_ratio']:>10}  {row['lost'] or ''}"
        )
    result["daemons"] = daemons.measure()
    print(f"\n{result['daemons']}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} x {model}, {memory} GiB, Linux {platform.release()}"


if __name__ == "__main__":
    sys.exit(main())
