"""The master hands its service over to the substitute, under load."""

from __future__ import annotations

from demo.product import RHA
from lab import SCENARIO, WORK
from lab.process import Process
from lab.result import Result
from lab.scene import Failover
from lab.setting import UNITS
from lab.stage import Stage
from rha.errors import StateError

ORDER_SECONDS = 60.0


def switchover(stage: Stage, result: Result) -> None:
    """Nothing at all may be missing."""
    failover = hand_over(stage, result)
    stage.machine.cut_power()
    if failover.verdict(ends=["west"]).lost:
        raise StateError("a planned move has lost commits", cause=f"{result.commits_lost} of them")


def hand_over(stage: Stage, result: Result) -> Failover:
    """Until the client has commits on the substitute. The master stays on, and its services stand still."""
    stage.protected()
    failover = Failover(stage, result)
    orders: list[Process] = []
    failover.lose(lambda: orders.append(_order(stage)), "rha switchover")
    failover.wait_start()
    failover.wait_served("west")
    stage.wait("the end of rha switchover", ORDER_SECONDS, lambda: orders[0].ended == 0)
    for unit in UNITS:
        if (state := stage.machine.call("systemctl", "is-active", unit).stdout.decode().strip()) != "inactive":
            raise StateError("the master has handed over and serves", cause=f"{unit} is {state}")
    return failover


def _order(stage: Stage) -> Process:
    words = ["env", f"RHA_RUN_DIR={stage.site.run_dir}", str(RHA), "switchover", SCENARIO, "--yes", "--reason", "lab"]
    order = Process(words, WORK / "switchover.log")
    stage.cleanup(order.stop)
    return order
