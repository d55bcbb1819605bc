"""Runs in the machine: waits until an engine's report is as wanted, and prints it. One process for the whole wait:
under emulation every start of `rha status` costs more than a second.

    ask.py SCENARIO now|ordered|unordered|unknown|silent SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rha.control import local
from rha.errors import RhaError

EVERY_SECONDS = 0.2


def is_so(what: str, report: dict[str, Any] | None) -> bool:
    """Whether the report (None: no answer) is what is waited for."""
    if report is None:
        return what == "silent"
    states = {disk["state"] for disk in report["disks"]}
    return {
        "now": True,
        "ordered": states == {"write-order"} and report["connected"] and report["lag_bytes"] == 0,
        "unordered": states != {"write-order"},
        "unknown": "unknown" in states,
    }.get(what, False)


def main(scenario: str, what: str, seconds: str) -> int:
    end = time.monotonic() + float(seconds)
    while True:
        try:
            report = local.call(local.RUN_DIR / f"engine-{scenario}.sock", "status", timeout=10)[0]
        except RhaError:
            report = None
        if is_so(what, report):
            print(json.dumps(report))
            return 0
        if time.monotonic() > end:
            print(json.dumps(report))
            return 1
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
