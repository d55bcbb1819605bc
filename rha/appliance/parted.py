"""Both sides of a possible split brain on the appliance: what a master says when it is sent away is kept, what its
substitute has written is asked for.

`split.json` in the scenario's folder: the last that the master said (rha.switch.split.Heard). It goes with the switch
that it belongs to.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from rha.appliance import catalog
from rha.appliance.replica import Replica
from rha.errors import RhaError, StateError
from rha.switch import progress as ledger
from rha.switch.progress import SWITCHOVER, Progress
from rha.switch.runner import Say
from rha.switch.split import Evidence, Heard, Substitute, Verdict, judge, unknowns
from rha.switch.ways import ways
from rha.vm.base import VmHost
from rha.vm.written import written
from rha.wire.messages import Hello

FILE = "split.json"
LOOK_SECONDS = 30.0  # between two looks at what the substitute writes; qemu-img reads its overlays' tables
_HOST, _GENERATION = 255, 64  # longest texts of a master that are kept


class Replaced(StateError):
    """A substitute stands in a master's place. `split`: the sentence about it, when both have written, or may have."""

    split = ""


class Parted:
    """One scenario's. Everything may be called from any thread."""

    def __init__(self, replica: Replica, vm: VmHost) -> None:
        self.replica, self.folder, self._vm = replica, replica.folder, vm
        self._lock = threading.Lock()
        self._judged: tuple[float, float, Verdict] | None = None  # of which switch, when (monotonic), what

    def hear(self, hello: Hello, peer: str, past: Progress) -> Verdict:
        """A master has come that a substitute stands in for: the verdict with what it says. Raises StorageError."""
        heard = Heard(
            host=hello.host[:_HOST],
            peer=peer,
            time=time.time(),
            decided=past.trigger.decided,
            generation=hello.generation[:_GENERATION],
            alone=hello.alone,
        )
        catalog.save(self.folder / FILE, heard)
        return self.judge(past)

    def refusal(self, past: Progress, hello: Hello | None, peer: str, say: Say) -> Replaced:
        """For a master that a substitute stands in for; what it says is noted and judged. It is refused whatever
        becomes of that."""
        judged, split = "", ""
        try:
            if hello:
                verdict = self.hear(hello, peer, past)
                judged, split = f"{verdict.sentence}; ", verdict.sentence if verdict.is_alarm else ""
        except RhaError as error:
            say(f"what its master wrote alone is not noted: {error!s}".replace("\n", "; "))
        name, is_planned = self.replica.name, past.kind == SWITCHOVER
        refusal = Replaced(
            f"{name} has {'switched' if is_planned else 'failed'} over: the master must not serve",
            cause=f"{judged}{past.sentence()}; {past.trigger.reason}",
            hint=f"{'' if is_planned else 'keep it off the network; '}on the appliance: rha split {name}",
        )
        refusal.split = split
        return refusal

    def evidence(self, past: Progress) -> Evidence:
        """Both sides as they are now. Raises StorageError."""
        heard = catalog.load(self.folder / FILE, Heard)
        scenario = self.replica.scenario
        overlays = [(image.name, Path(image.overlay)) for image in past.images]
        return Evidence(
            scenario=past.scenario,
            kind=past.kind,
            reason=past.trigger.reason,
            by=past.trigger.by,
            decided=past.trigger.decided,
            common=past.point,
            received_lsn=self.replica.durable_lsn,
            generation=self.replica.generation,
            substitute=Substitute(
                domain=past.domain,
                state=self._state(past.domain),
                started=past.started,
                disks=written(self._vm, past.domain, overlays),
            ),
            master=heard if heard and heard.decided == past.trigger.decided else None,
            devices={disk.name: disk.device for disk in scenario.disk} if scenario else {},
            units=[*scenario.switch.units, *(scenario.lease.units if scenario.lease else [])] if scenario else [],
        )

    def _state(self, domain: str) -> str:
        try:
            return str(self._vm.state(domain)) if domain else "absent"
        except RhaError as error:
            return f"not known ({error.what})"

    def judge(self, past: Progress) -> Verdict:
        """Raises StorageError."""
        verdict = judge(self.evidence(past))
        with self._lock:
            self._judged = past.trigger.decided, time.monotonic(), verdict
        return verdict

    def tend(self, past: Progress) -> None:
        """Looks again now and then, once the master has come. Raises StorageError."""
        with self._lock:
            before = self._judged
        is_old = before is None or before[0] != past.trigger.decided or time.monotonic() - before[1] > LOOK_SECONDS
        if is_old and (self.folder / FILE).exists():
            self.judge(past)

    def alarm(self, past: Progress) -> str:
        """The last verdict's sentence, if it is an alarm."""
        with self._lock:
            before = self._judged
        is_ours = before and before[0] == past.trigger.decided
        return before[2].sentence if before and is_ours and before[2].is_alarm else ""

    def forget(self) -> None:
        """The switch is over."""
        (self.folder / FILE).unlink(missing_ok=True)
        with self._lock:
            self._judged = None

    def answer(self) -> dict[str, Any]:
        """To `rha split`. Raises StateError when no substitute stands, StorageError."""
        past = ledger.load(self.folder)
        if past is None:
            raise StateError(
                f"{self.replica.name} has no substitute", cause="nothing can have parted", hint="rha status"
            )
        evidence = self.evidence(past)
        verdict = judge(evidence)
        return {
            "verdict": verdict.kind,
            "sentence": verdict.sentence,
            "unknown": unknowns(evidence),
            "evidence": msgspec.to_builtins(evidence),
            "ways": msgspec.to_builtins(ways(evidence, overwrites=verdict.is_alarm)),
            "now": time.time(),
        }


def why_not_overwrite(parted: Parted) -> str:
    """The sentence of why a switchback must not overwrite the master's disks unless a person says so; empty: it may.
    Raises StorageError."""
    past = ledger.load(parted.folder)
    verdict = parted.judge(past) if past else None
    return verdict.sentence if verdict and verdict.is_alarm else ""
