"""What a test boot needs of one replica: its points as disks, and how far it is behind."""

from __future__ import annotations

from pathlib import Path

from rha.appliance.replica import Replica
from rha.errors import StateError
from rha.report import Point
from rha.scenario import Scenario
from rha.switch import progress as ledger
from rha.switch.bootplan import NEWEST
from rha.switch.bootsteps import BootDisks
from rha.switch.lag import Behind


class BootReplica:
    """Satisfies rha.switch.bootsteps.BootHost."""

    def __init__(self, replica: Replica, scenario: Scenario, store: Path, scripts: Path) -> None:
        self.replica, self.scenario, self.store, self.scripts = replica, scenario, store, scripts
        self.folder = replica.folder
        self._name = ""  # of the open point

    def why_switched(self) -> str | None:
        past = ledger.load(self.folder)
        if past is not None:
            return f"{past.kind} {past.sentence()}"
        return "its images are being given to a substitute" if self.replica.is_retired else None

    def find_point(self, at: str) -> None:
        points = self.replica.points
        if not points.kept.get(at):
            points.find(str(self.newest().lsn) if at == NEWEST else at)

    def open_point(self, at: str) -> BootDisks:
        newest = self.newest() if at == NEWEST else None
        opened = self.replica.points.open(str(newest.lsn) if newest else at)
        self._name = opened.name
        place = opened.view.place
        return BootDisks(newest or Point(lsn=place.lsn, time=place.time), opened.show_files())

    def newest(self) -> Point:
        """In the middle of a resync the last consistent one, which is not the newest LSN. Raises StateError."""
        point = self.replica.point()
        if point is None:
            why = self.replica.why_not_consistent() or "nothing was synced yet"
            raise StateError("there is no consistent point to boot", cause=why, hint="rha status")
        return point

    def close_point(self) -> None:
        if self._name:
            self.replica.points.close(self._name)
            self._name = ""

    def behind(self) -> Behind:
        """What is captured and not in the images. Seconds by the master's clock, as an RPO: at its last heartbeat."""
        replica, beat, point = self.replica, self.replica.last_heartbeat, self.replica.point()
        unsent = beat.report.lag_bytes if beat and beat.report else None
        seconds = max(0.0, beat.time - point.time) if beat and point else None
        return Behind(replica.spool_bytes() + (unsent or 0), seconds, replica.applied_lsn)
