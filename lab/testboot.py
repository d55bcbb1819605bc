"""A test boot while the server serves: it must pass, and nobody but the checks may notice it."""

from __future__ import annotations

import msgspec

from demo.product import RHA
from lab import SCENARIO, WORK, setting, substitute
from lab.process import Process
from lab.result import Result
from lab.scene import BOOT_SECONDS, SERVE_SECONDS
from lab.stage import PAUSE_SECONDS, Stage
from rha.errors import StateError
from rha.switch import bootreport
from rha.switch.bootreport import BootReport
from rha.units import show_bytes, show_seconds
from rha.vm.base import domain_name


def passes(stage: Stage, result: Result) -> None:
    """The client stays on the master and is never kept waiting; the replica follows meanwhile."""
    stage.protected()
    stage.serve(SERVE_SECONDS)
    before = stage.last_acknowledged("west")
    report = _tested(stage)
    stage.serve(SERVE_SECONDS)
    result.boot_seconds = report.ready_seconds
    lag = report.lag[bootreport.DURING]
    stage.narrator.say(
        f"rha test: {report.outcome}, {report.why}; meanwhile {show_bytes(lag.last_lsn - lag.first_lsn)} of the stream "
        f"were applied, at most {show_bytes(lag.bytes)} behind"
    )
    if report.outcome != bootreport.PASSED:
        raise StateError("the test boot did not pass", cause=report.why)
    if lag.last_lsn == lag.first_lsn:
        raise StateError("the replica stood still during the test boot")
    _demand_untouched(stage, before)
    stage.stop_clients()
    attempts = stage.attempts("west")
    result.commits_acknowledged = sum(one.acked is not None for one in attempts)
    if elsewhere := [one for one in attempts if one.address != setting.service(stage.guard)]:
        raise StateError("the client was led away from the master", cause=f"to {elsewhere[0].address}")


def _tested(stage: Stage) -> BootReport:
    log = WORK / "test.log"
    words = ["env", f"RHA_RUN_DIR={stage.site.run_dir}", str(RHA), "test", SCENARIO, "--json", "--reason", "lab"]
    order = Process(words, log)
    stage.cleanup(order.stop)
    stage.wait("rha test", BOOT_SECONDS, lambda: order.ended is not None)
    try:
        return msgspec.json.decode(log.read_bytes(), type=BootReport)
    except msgspec.DecodeError as error:
        said = log.read_text(errors="replace").replace("\n", "; ")
        raise StateError(f"rha test ended with {order.ended} and no report", cause=said) from error


def _demand_untouched(stage: Stage, before: int) -> None:
    """Raises StateError when the client waited, the name leads elsewhere, or a machine is left."""
    longest = stage.longest_pause("west", before)
    stage.narrator.say(f"the client's longest pause was {show_seconds(longest)}")
    if longest > PAUSE_SECONDS:
        raise StateError("a test boot has stopped the master's client", cause=f"for {show_seconds(longest)}")
    if (where := stage.places.leads_to()) != [setting.service(stage.guard)]:
        raise StateError("a test boot has moved the name", cause=f"it leads to {where}")
    if substitute.runs(f"{domain_name(SCENARIO)}.test"):
        raise StateError("a test boot has left its machine")
