"""Runs in the machine: waits until an engine's report is as wanted, and prints it. One process for the whole wait:
under emulation every start of `rha status` costs more than a second.

    ask.py SCENARIO WANTED SECONDS

WANTED: `now` (any report), `ordered` (all disks in write order, connected, everything acknowledged),
`alarm` (one at least), `calm` (none), `DISK=STATE/REASON`, or `DISK:REASON:COUNT` (it has left write order at least so
often for that reason).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from rha.control import local
from rha.errors import RhaError

EVERY_SECONDS = 0.2


def is_so(wanted: str, report: dict[str, Any]) -> bool:
    """Whether the report is what is waited for."""
    disks = {disk["name"]: disk for disk in report["disks"]}
    if wanted in ("now", "alarm", "calm"):
        return {"now": True, "alarm": bool(report["alarms"]), "calm": not report["alarms"]}[wanted]
    if wanted == "ordered":
        all_ordered = all(disk["state"] == "write-order" for disk in disks.values())
        return all_ordered and bool(report["connected"]) and report["lag_bytes"] == 0
    if "=" in wanted:
        name, _, state = wanted.partition("=")
        return f"{disks[name]['state']}/{disks[name]['reason']}" == state
    name, reason, count = wanted.split(":")
    return int(disks[name]["left_order"].get(reason, 0)) >= int(count)


def has_failed(scenario: str) -> bool:
    """systemd has given the engine up."""
    return subprocess.run(["systemctl", "is-failed", "--quiet", f"rha-engine@{scenario}"], check=False).returncode == 0


def main(scenario: str, wanted: str, seconds: str) -> int:
    end = time.monotonic() + float(seconds)
    while True:
        try:
            report = local.call(local.RUN_DIR / f"engine-{scenario}.sock", "status", timeout=10)[0]
        except RhaError:
            report = None
        if report and is_so(wanted, report):
            print(json.dumps(report))
            return 0
        if time.monotonic() > end or (report is None and has_failed(scenario)):
            print(json.dumps(report))
            return 1
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
