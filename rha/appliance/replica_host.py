"""What a switch needs of one replica: the appliance's hands for rha.switch (steps.FailoverHost)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rha.appliance.replica import Replica
from rha.errors import NetworkError, StateError, StorageError
from rha.fence import taking
from rha.fence.taking import Means
from rha.image.storage_daemon import ImageSpec
from rha.report import Point
from rha.scenario import Scenario
from rha.units import show_seconds

LOST_SECONDS = 30.0  # without a link, until the master is believed not to come back for its last write
POLL_SECONDS = 0.02


class ReplicaHost:
    """Also a SwitchoverHost (rha.switch.planned). `order(verb, limit, **arguments)`: as Appliance.order."""

    def __init__(
        self,
        replica: Replica,
        scenario: Scenario,
        store: Path,
        hang_up: Callable[[str], None],
        means: Means,
        say: Callable[[str], None],
        order: Callable[..., Any],
    ) -> None:
        self.replica, self.scenario, self.store = replica, scenario, store
        self.folder = replica.folder
        self._hang_up, self._means, self._say, self._order = hang_up, means, say, order

    def why_not_consistent(self) -> str | None:
        return self.replica.why_no_point_after_spool()

    def cut_off(self) -> None:
        taking.cut_off(self.scenario, self._means, self._say)

    def stop_receiving(self) -> None:
        self.replica.retire()
        self._hang_up(self.replica.name)

    def apply_spool(self, limit_seconds: float) -> Point | None:
        """Raises StorageError when the journal cannot be applied in time."""
        if not self.replica.apply_spool(limit_seconds):
            raise StorageError(
                "the spool is not applied in time",
                cause=f"{self.replica.spool_bytes()} bytes left after {show_seconds(limit_seconds)}",
                hint=f"rha failover {self.replica.name} goes on with it",
            )
        return self.replica.point()

    def close_images(self, at: Point | None = None) -> list[ImageSpec]:
        """Raises StateError when the point has left the window."""
        return self.replica.give_up_images(self.replica.points.find(str(at.lsn)) if at else None)

    def earlier_point(self, before: Point, seconds: float) -> Point | None:
        place = self.replica.points.before(before, seconds)
        return Point(lsn=place.lsn, time=place.time) if place else None

    # A switchover ---------------------------------------------------------------------------------------------

    def why_no_switchover(self) -> str | None:
        if not self.replica.is_connected:
            return "its master is not connected"
        beat = self.replica.last_heartbeat
        if beat is None or beat.report is None:
            return "its master has not said how it is"
        if beat.report.state != "write-order":
            return f"its disks are not in write order: {beat.report.why}"
        return self.replica.why_not_consistent()

    def order(self, verb: str, limit: float, **arguments: Any) -> Any:
        return self._order(verb, limit, **arguments)

    def receive_last(self, lsn: int, limit: float) -> None:
        until, lost = time.monotonic() + limit, None
        while self.replica.applied_lsn < lsn or self.replica.why_not_consistent():
            now = time.monotonic()
            lost = None if self.replica.is_connected else lost or now
            if now > until or (lost and now - lost > LOST_SECONDS):
                left = self.replica.why_not_consistent() or f"{lsn - self.replica.applied_lsn} bytes of stream to come"
                cause = f"the link to the master is lost; {left}" if lost else f"{left}, after {show_seconds(limit)}"
                raise NetworkError("the last writes have not arrived", cause=cause, hint="rha status")
            time.sleep(POLL_SECONDS)

    def hold_images(self) -> None:
        self.replica.retire()

    def newest_point(self) -> Point | None:
        return self.replica.point()

    def hand_over(self, limit: float) -> None:
        self._say(self._order("hand_over", limit, to=self._means.me))
        if self.scenario.lease:
            taking.own(self.scenario, self._means, self._say)

    def give_back_lease(self) -> None:
        if self.scenario.lease:
            self._say(taking.release(self.scenario, self._means))

    def wait_gone(self, limit: float) -> None:
        until = time.monotonic() + limit
        while self.replica.is_connected:
            if time.monotonic() > until:
                raise StateError("the master is still there", cause=f"connected, {show_seconds(limit)} after the order")
            time.sleep(POLL_SECONDS)

    def receive_again(self) -> None:
        self.replica.restore_images()
