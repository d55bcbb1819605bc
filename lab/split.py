"""The network between master and appliance is cut, with a client on either side; both are alive and switched on."""

from __future__ import annotations

from lab import setting
from lab.places import HOST
from lab.result import Result
from lab.scene import Failover
from lab.stage import Stage
from rha.errors import StateError

HEALED_SECONDS = 120.0
CLINGING_SECONDS = 60.0


def fenced(stage: Stage, result: Result) -> None:
    """The fence does not need that network: it cuts the master's power before the substitute starts."""
    failover = _split(stage, result)
    failover.follow("east")
    if stage.machine.is_on:
        raise StateError("the master was not fenced", cause="its QEMU runs while the substitute serves")
    _heal(stage)
    failover.verdict(ends=["east", "west"])
    failover.discard()


def leased(stage: Stage, result: Result) -> None:
    """Nobody can cut the master off. It loses its lease, and with it the address that its clients know; it runs on."""
    failover = _split(stage, result)
    failover.follow("east")
    if not stage.machine.is_on:
        raise StateError("the master is off", cause="in this scene nothing may switch it off")
    tried = [one for one in stage.attempts("west") if one.sent > failover.lost_at and one.acked is None]
    if not tried or any(one.address != setting.service("lease") for one in tried):
        raise StateError("client west has not clung to the master", cause=f"it tried {len(tried)} times")
    _heal(stage)
    stage.machine.cut_power()
    failover.verdict(ends=["east", "west"])
    failover.discard()


def _split(stage: Stage, result: Result) -> Failover:
    stage.protected()
    stage.client("east", "east")
    failover = Failover(stage, result)
    failover.lose(lambda: stage.places.split.plug(False), "NETWORK SPLIT between master and appliance")
    return failover


def _heal(stage: Stage) -> None:
    """The cable is back: the client of the master's side finds the substitute by the name."""
    stage.places.split.plug(True)
    stage.narrator.say("the network is whole again")
    stage.wait("client west's way to the substitute", HEALED_SECONDS, lambda: stage.acknowledged("west", HOST))
