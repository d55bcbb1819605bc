"""The scenes, one function each. Each gets a stage of its own, asserts by the clients and the two databases, and fills
in what was measured. Each has its own time bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lab import back, death, planned, split, testboot
from lab.result import Result
from lab.scene import Failover
from lab.setting import Guard
from lab.stage import Stage


class Scene(NamedTuple):
    """`about`: one line for the terminal; `limit`: seconds for all of it; `store_bytes`: of the appliance's own file
    system, 0: it has none."""

    about: str
    limit: float
    guard: Guard
    play: Callable[[Stage, Result], None]
    store_bytes: int = 0


def power_cut(stage: Stage, result: Result) -> None:
    stage.protected()
    failover = Failover(stage, result)
    failover.lose(stage.machine.cut_power, "POWER CUT of the master")
    _see_it_through(failover)
    failover.discard()


def kernel_panic(stage: Stage, result: Result) -> None:
    """The machine stands still and stays switched on: only the fence ends it."""
    stage.protected()
    failover = Failover(stage, result)
    failover.lose(lambda: _panic(stage), "KERNEL PANIC on the master")
    _see_it_through(failover)
    failover.discard()


def _panic(stage: Stage) -> None:
    """Returns before it happens: a machine that panics answers no command."""
    stage.machine.sh("(sleep 0.1; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")


def _see_it_through(failover: Failover) -> None:
    failover.follow("west")
    failover.verdict(ends=["west"])
    failover.compare_boot()


SCENES = {
    "power-cut": Scene("the master loses its power; the appliance fails over by itself", 3600, "fence", power_cut),
    "kernel-panic": Scene("the master's kernel panics; its power is still on", 3600, "fence", kernel_panic),
    "split": Scene("the network between master and appliance is cut; a fence decides", 3600, "fence", split.fenced),
    "split-lease": Scene("the same; a lease in etcd decides", 3600, "lease", split.leased),
    "appliance-dies": Scene("the appliance is killed in each step of the failover", 3600, "fence", death.in_each_step),
    "switchover": Scene("the master hands over, under load", 3600, "fence", planned.switchover),
    "way-back": Scene(
        "it hands over, takes home what its substitute has, and serves again", 5400, "fence", back.there_and_back
    ),
    "test-boot": Scene("a test boot while the master serves", 3600, "fence", testboot.passes),
    "disk-full": Scene("the appliance's disk is full for a while", 3600, "fence", death.disk_full, 4 << 30),
}
