"""`make proof`: every oracle and every storm, printed as a table and written to build/proof.json.

    python -m proof [--seed N] [--cuts N] [--database-cuts N] [--kills N] [--only PART]... [--storm NAME]...

A failure names its subject, seed and LSN; the same seed draws the same cuts and the same order of kills again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

from proof import crashes, oracle_a, oracle_c, storms
from proof.result import PATH, Result
from vmlab import log_writes, stacks

PARTS = ("images", "databases", "storms", "lab")
STORMS = [*(plan.name for plan in storms.PLANS), crashes.NAME]


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)


def arguments() -> argparse.Namespace:
    words = argparse.ArgumentParser(prog="python -m proof", description="Holds rha to what it promises.")
    words.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="drawn anew unless given")
    words.add_argument("--cuts", type=int, default=2000, help="LSN cuts of disks and file systems")
    words.add_argument("--database-cuts", type=int, default=240, help="LSN cuts of databases")
    words.add_argument("--kills", type=int, default=crashes.KILLS, help=f"of the appliance, in {crashes.NAME}")
    words.add_argument("--only", action="append", choices=PARTS, help="leave the other parts out")
    words.add_argument("--storm", action="append", choices=STORMS, help="these only")
    return words.parse_args()


def guarded(result: Result, part: Callable[[], None], name: str) -> None:
    """A part that cannot be brought to its end is a failure, and no reason to leave the others out."""
    try:
        part()
    except Exception as error:  # noqa: BLE001 - whatever it was, it is told
        say(f"{name} broke off: {error}")
        result.verdicts.append(oracle_a.Verdict(name, failures=[f"{name}, seed {result.seed}: broke off: {error}"]))


def judge(result: Result, subject: oracle_a.Subject) -> None:
    result.verdicts.append(subject.judge(say))


def weather(result: Result, plan: storms.Plan, seed: int) -> None:
    result.tallies.append(storms.told(plan, seed, say))


def kills(result: Result, seed: int, count: int) -> None:
    """The appliance alone, and what each kill leaves."""
    result.tallies.append(crashes.told(seed, say, count))


def machines(result: Result) -> None:
    """Device stacks of every kind in Debian machines."""
    result.stacks |= stacks.run(say)


def log_of_writes(result: Result) -> None:
    """Oracle B: what the kernel's own record of the writes says."""
    began, verdict = time.monotonic(), log_writes.run(say)
    result.verdicts.append(
        oracle_a.Verdict(
            "dm-log-writes",
            cuts=verdict.marks,
            failures=verdict.failures,
            writes=verdict.log_writes,
            seconds=time.monotonic() - began,
        )
    )


def main() -> int:
    given = arguments()
    if os.geteuid() != 0:
        print("error: the proof needs root\ncause: loop devices, BPF, mounts\nhint: sudo make proof", file=sys.stderr)
        return 4
    for wish in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(wish, lambda number, _: sys.exit(128 + number))  # daemons, mounts and devices go on the way out
    parts, result, began = given.only or PARTS, Result(given.seed), time.monotonic()
    say(f"seed {given.seed}")
    subjects = oracle_a.subjects(given.cuts, given.seed) if "images" in parts else []
    subjects += oracle_c.subjects(given.database_cuts, given.seed) if "databases" in parts else []
    for subject in subjects:
        guarded(result, partial(judge, result, subject), subject.name)
    for number, plan in enumerate(storms.PLANS if "storms" in parts else ()):
        if not given.storm or plan.name in given.storm:
            guarded(result, partial(weather, result, plan, given.seed + 1000 * number), f"storm {plan.name}")
    if "storms" in parts and (not given.storm or crashes.NAME in given.storm):
        guarded(result, partial(kills, result, given.seed, given.kills), f"storm {crashes.NAME}")
    if "lab" in parts:
        guarded(result, partial(machines, result), "device stacks")
        guarded(result, partial(log_of_writes, result), "dm-log-writes")
    result.seconds = time.monotonic() - began
    result.save()
    print(result.table())
    say(f"{'all is well' if result.is_good() else 'FAILED'} after {result.seconds:.0f} s; {PATH}")
    return 0 if result.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
