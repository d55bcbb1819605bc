"""What the command line asks the appliance about switches: one method per request, plain JSON values in and out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from rha.appliance import maintenance
from rha.appliance.maintenance import Pause
from rha.appliance.warden import Warden
from rha.control.local import Handler
from rha.errors import RhaError, StateError
from rha.report import Point
from rha.switch import failover, planned, switches
from rha.switch.progress import Progress, Trigger

ASKED = "asked for by a person"


class SwitchVerbs:
    """`warden_of(scenario)` raises StateError when it is not here."""

    def __init__(self, warden_of: Callable[[str], Warden]) -> None:
        self._warden_of = warden_of

    def handlers(self) -> dict[str, Handler]:
        return {
            "failover": self.failover,
            "switchover": self.switchover,
            "discard": self.discard,
            "pause": self.pause,
            "resume": self.resume,
            "switches": self.switches,
        }

    def failover(
        self,
        scenario: str,
        force: bool = False,
        dry_run: bool = False,
        person: str = "operator",
        reason: str = "",
        at: str = "",
    ) -> Any:
        """`sentence` and `steps`. Raises StateError while the master is connected, unless forced, and when there is no
        such point; else as Warden.fail_over."""
        warden = self._warden_of(scenario)
        host, wanted = warden.host(), _point(warden, at)
        if dry_run:
            return _nothing(failover.steps_ahead(host, warden.vm, force=force, wanted=wanted))
        if warden.replica.is_connected and not force:
            raise StateError(
                f"the master of {scenario} is connected",
                cause="it is alive; a substitute beside it would make two that write",
                hint=f"rha switchover {scenario} lets it hand over; rha failover {scenario} --force overrules this",
            )
        return _asked(
            warden,
            "failover",
            person,
            lambda: warden.fail_over(_trigger(warden, person, reason), force=force, wanted=wanted),
        )

    def switchover(self, scenario: str, dry_run: bool = False, person: str = "operator", reason: str = "") -> Any:
        """`sentence` and `steps`. Raises as Warden.switch_over."""
        warden = self._warden_of(scenario)
        if dry_run:
            return _nothing(planned.steps_ahead(warden.host(), warden.vm))
        return _asked(warden, "switchover", person, lambda: warden.switch_over(_trigger(warden, person, reason)))

    def discard(self, scenario: str, person: str = "operator", reason: str = "", keep: bool = True) -> Any:
        """Raises as Warden.discard."""
        warden = self._warden_of(scenario)
        return {"sentence": warden.discard(keep=keep, person=person, reason=reason or ASKED)}

    def pause(self, scenario: str, person: str = "operator", reason: str = "", seconds: float | None = None) -> Any:
        """Nothing is done by itself, for `seconds` or until `resume`; another pause replaces the one before."""
        folder, now = self._warden_of(scenario).replica.folder, time.time()
        pause = Pause(by=person, reason=reason, since=now, until=None if seconds is None else now + seconds)
        maintenance.begin(folder, pause)
        switches.note(folder, "pause", person, reason or ASKED, now, pause.sentence())
        return {"sentence": f"{scenario}: {pause.sentence()}"}

    def resume(self, scenario: str, person: str = "operator", reason: str = "") -> Any:
        """Raises StateError when it is not paused."""
        warden = self._warden_of(scenario)
        folder, sentence = warden.replica.folder, warden.paused()
        if not sentence:
            raise StateError(f"{scenario} is not paused", hint="rha status")
        maintenance.end(folder)
        switches.note(folder, "resume", person, reason or ASKED, time.time(), f"it was {sentence}")
        return {"sentence": f"{scenario}: no longer {sentence}"}

    def switches(self, scenario: str) -> Any:
        """The history, oldest first (rha.switch.switches.Switch)."""
        return msgspec.to_builtins(switches.read(self._warden_of(scenario).replica.folder))


def _point(warden: Warden, text: str) -> Point | None:
    """The point that a person means. Raises StateError when there is none, StorageError."""
    if not text or text == "now":
        return None
    place = warden.replica.points.find(text)
    return Point(lsn=place.lsn, time=place.time)


def _nothing(steps: list[str]) -> dict[str, Any]:
    return {"sentence": "nothing was changed", "steps": steps}


def _trigger(warden: Warden, person: str, reason: str) -> Trigger:
    return warden.trigger(person, reason or ASKED)


def _asked(warden: Warden, kind: str, person: str, act: Callable[[], Progress]) -> dict[str, Any]:
    """The order and what became of it stand in the log, too: who gave it may have hung up. Raises as `act`."""
    warden.say(f"{person} has ordered a {kind}")
    try:
        return _done(act())
    except RhaError as error:
        warden.say(f"the {kind} that {person} has ordered: {error!s}".replace("\n", "; "))
        raise


def _done(progress: Progress) -> dict[str, Any]:
    return {"sentence": progress.sentence(), "steps": [step.sentence for step in progress.steps]}
