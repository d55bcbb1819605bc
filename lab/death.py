"""The appliance itself is in trouble: killed in each step of a failover; without space on its disk."""

from __future__ import annotations

import time
from contextlib import suppress

import msgspec

from lab import SCENARIO
from lab.result import Result
from lab.scene import BOOT_SECONDS, NOTICE_SECONDS, Failover
from lab.stage import PAUSE_SECONDS, Stage
from rha.errors import StateError
from rha.units import show_bytes, show_seconds

DEATHS = 5  # at least, in as many different steps: the shortest last less than a millisecond and may be missed
LOOK_SECONDS = 0.001
RESTORED_SECONDS = 180.0
FULL_SECONDS = 120.0
LEFT_BYTES = 48 << 20


def in_each_step(stage: Stage, result: Result) -> None:
    """`kill -9` as soon as a step has begun in which it was not killed before, then a new start, which has to go on."""
    stage.protected()
    failover = Failover(stage, result)
    failover.lose(stage.machine.cut_power, "POWER CUT of the master")
    died_in = _kill_in_each(stage)
    stage.narrator.say(f"killed and started again {len(died_in)} times: in {', '.join(died_in)}")
    if len(died_in) < DEATHS or "wait-ready" not in died_in:
        raise StateError("the appliance was not killed in enough steps", cause=f"in {', '.join(died_in) or 'none'}")
    failover.wait_served("west")
    failover.verdict(ends=["west"])
    failover.discard()


def _kill_in_each(stage: Stage) -> list[str]:
    """The steps in which it died, in order. Ends when the failover has come to its end."""
    died_in: list[str] = []
    until = time.monotonic() + NOTICE_SECONDS + BOOT_SECONDS
    while time.monotonic() < until:
        state, step = _stands_at(stage)
        if state in ("serving", "failed"):
            return died_in
        if step and step not in died_in:
            stage.site.kill()
            died_in.append(_stands_at(stage)[1] or step)
            stage.narrator.say(f"kill -9 of the appliance in {died_in[-1]}")
            stage.site.start()
        time.sleep(LOOK_SECONDS)
    raise StateError("the failover does not come to its end", cause=stage.appliance_says())


def _stands_at(stage: Stage) -> tuple[str, str]:
    """State of the failover and the step that has begun and not ended, as its file says: only to know when to kill."""
    file = stage.site.store / SCENARIO / "failover.json"
    with suppress(FileNotFoundError):
        progress = msgspec.json.decode(file.read_bytes())
        last = progress["steps"][-1] if progress["steps"] else {"name": "", "seconds": 0.0}
        return str(progress["state"]), str(last["name"]) if last["seconds"] is None else ""
    return "", ""


def disk_full(stage: Stage, result: Result) -> None:
    """The master's clients must not notice; both sides must say so; once there is space everything is caught up."""
    stage.protected()
    filler = stage.site.store / "filler"
    before = stage.last_acknowledged("west")
    stage.fill_store(filler, LEFT_BYTES)
    begun = time.monotonic()
    stage.narrator.say(f"{show_bytes(LEFT_BYTES)} are left on the appliance's disk")
    stage.wait("the appliance's alarm", FULL_SECONDS, lambda: _is_alarmed(stage))
    stage.narrator.say(f"{stage.appliance_says()}")
    stage.wait("the master's alarm", FULL_SECONDS, lambda: stage.master.report()["alarms"])
    stage.narrator.say(f"the master: {'; '.join(stage.master.report()['alarms'])}")
    filler.unlink()
    stage.narrator.say(f"there is space again after {show_seconds(time.monotonic() - begun)}")
    stage.master.wait_ordered(RESTORED_SECONDS)
    longest = stage.longest_pause("west", before)
    stage.narrator.say(f"in write order again; the client's longest pause was {show_seconds(longest)}")
    if longest > PAUSE_SECONDS:
        raise StateError("the full disk has stopped the master's client", cause=f"for {show_seconds(longest)}")
    failover = Failover(stage, result)
    failover.lose(stage.machine.cut_power, "POWER CUT of the master")
    failover.follow("west")
    failover.verdict(ends=["west"])
    failover.discard()


def _is_alarmed(stage: Stage) -> bool:
    report = stage.observer.appliance
    return report is not None and bool(report.alarms)
