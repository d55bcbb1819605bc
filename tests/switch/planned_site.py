"""A master and an appliance for switchovers: real image files, the master's part is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rha.errors import NetworkError
from rha.report import Point
from rha.scenario import Lease, Switch, Vm
from tests.switch.one_scenario import OneScenario

LSN = 4096


class PlannedSite(OneScenario):
    """Satisfies SwitchoverHost. What the appliance does stands in `calls`; `serves`: the master's applications run;
    `lease`: who holds it; `held`: the images are closed. An order in `broken` is refused, one in `lost` is done, but
    its answer does not come."""

    def __init__(self, store: Path, images: list[Path], *, after: str = "stay") -> None:
        super().__init__(store, images, Vm(firmware="bios", bus="virtio"))
        switch = Switch(units=["app.service"], after=after)  # type: ignore[arg-type]
        lease = Lease(endpoints=["http://etcd:2379"], addresses=["192.0.2.1/24"], interface="eth0")
        self.scenario = msgspec.structs.replace(self.scenario, switch=switch, lease=lease)
        self.serves, self.is_handed_over, self.is_on, self.holder, self.held = True, False, True, "master", False
        self.lost: set[str] = set()
        self.point = Point(lsn=LSN + 512, time=1000.0)
        self.why_not: str | None = None

    def why_no_switchover(self) -> str | None:
        return self.why_not

    def order(self, verb: str, limit: float, **arguments: Any) -> Any:
        self._called(verb)
        value = self._do(verb)
        if verb in self.lost:
            self.lost.discard(verb)
            raise NetworkError(f"whether the engine has done {verb!r} is not known")
        return value

    def _do(self, verb: str) -> Any:
        if verb == "release":
            self.serves = False
            return {"lsn": LSN, "time": 999.0, "said": ["app.service has stopped"]}
        if verb == "resume":
            assert self.holder != "appliance", "the master was told to serve without its lease"
            self.serves, self.is_handed_over = True, False
        if verb == "power_off":
            self.is_on = False
        return None

    def receive_last(self, lsn: int, limit: float) -> None:
        assert lsn == LSN
        self._called("receive_last")

    def hold_images(self) -> None:
        self.held = True
        self._called("hold_images")

    def newest_point(self) -> Point | None:
        return self.point

    def hand_over(self, limit: float) -> None:
        self.holder = "appliance"
        self._called("hand_over")

    def give_back_lease(self) -> None:
        self.holder = "master"
        self._called("give_back_lease")

    def wait_gone(self, limit: float) -> None:
        self._called("wait_gone")

    def receive_again(self) -> None:
        self.held = False
        self._called("receive_again")
