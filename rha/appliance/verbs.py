"""What the command line asks the appliance about points: one method per request, plain JSON values in and out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rha.appliance import quiesced
from rha.appliance.pointkeeper import PointKeeper, answer
from rha.appliance.quiesced import Order
from rha.appliance.replica import Replica
from rha.control.local import Handler


class PointVerbs:
    """`replica_of(scenario)` raises StateError when it is not here; `order(scenario, verb, limit, …)` has the engine of
    its master do something."""

    def __init__(self, replica_of: Callable[[str], Replica], order: Order) -> None:
        self._replica_of, self._order = replica_of, order

    def handlers(self) -> dict[str, Handler]:
        return {
            "points": self.points,
            "bookmark": self.bookmark,
            "open_point": self.open,
            "close_point": self.close,
            "mount_point": self.mount,
            "changed": self.changed,
            "rewind": self.rewind,
            "rewind_size": self.rewind_size,
        }

    def _keeper(self, scenario: str) -> PointKeeper:
        return self._replica_of(scenario).points

    def points(self, scenario: str) -> Any:
        return answer(self._keeper(scenario).list())

    def bookmark(
        self, scenario: str, name: str, at: str = "now", by: str = "", drop: bool = False, quiesce: bool = False
    ) -> Any:
        if quiesce:
            return answer(quiesced.bookmark(self._replica_of(scenario), self._order, name, by))
        keeper = self._keeper(scenario)
        if drop:
            keeper.drop_bookmark(name)
            return None
        return answer(keeper.bookmark(name, at, by))

    def open(self, scenario: str, at: str) -> Any:
        return answer(self._keeper(scenario).open(at).describe())

    def close(self, scenario: str, name: str) -> None:
        self._keeper(scenario).close(name)

    def mount(self, scenario: str, at: str, directory: str) -> Any:
        """Opens a point and mounts its file systems; `close_point` ends both."""
        keeper = self._keeper(scenario)
        point = keeper.open(at)
        try:
            point.mount(Path(directory))
        except BaseException:
            keeper.close(point.name)
            raise
        return answer(point.describe())

    def rewind_size(self, scenario: str, at: str) -> Any:
        """What a rewind would write: the point, and bytes by disk."""
        keeper = self._keeper(scenario)
        view = keeper.view(keeper.find(at))
        try:
            disks = self._replica_of(scenario).disk_names()
            sizes = {disk: sum(length for _, length in view.changed(number)) for number, disk in enumerate(disks)}
        finally:
            view.close()
        return {"lsn": view.place.lsn, "time": view.place.time, "bytes": sizes}

    def rewind(self, scenario: str, at: str, by: str = "") -> Any:
        replica = self._replica_of(scenario)
        before = replica.applied_lsn
        place = replica.rewind(at, by)
        return {"lsn": place.lsn, "time": place.time, "before": before, "now": replica.applied_lsn}

    def changed(self, scenario: str, at: str, to: str) -> Any:
        """The ranges that differ between two points, by disk: [offset, length] in bytes."""
        keeper = self._keeper(scenario)
        first, second = sorted((keeper.find(at), keeper.find(to)), key=lambda place: place.lsn)
        older, newer = keeper.view(first), keeper.view(second)
        try:
            disks = self._replica_of(scenario).disk_names()
            ranges = {disk: list(older.differing(newer, number)) for number, disk in enumerate(disks)}
        finally:
            older.close()
            newer.close()
        return {"from": [first.lsn, first.time], "to": [second.lsn, second.time], "ranges": ranges}
