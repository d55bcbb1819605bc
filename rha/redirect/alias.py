"""NetBIOS names of the master as aliases of the appliance's Samba; several masters on one appliance (N:1). The
master's own Samba gives them up; where one is its `netbios name`, that becomes NAME-RHA."""

from __future__ import annotations

import ipaddress
import time

import msgspec

from rha.errors import NetworkError, RhaError, StateError
from rha.redirect import links
from rha.redirect.base import Act, Deadline, Memory, Place, Redirection, Sentences
from rha.redirect.samba import Samba
from rha.scenario import TakeAlias
from rha.units import show_seconds

POLL_SECONDS = 0.2


class Before(msgspec.Struct):
    """The memory: the include was changed, or was going to be."""

    names: list[str]


class Alias(Redirection):
    """The aliases of one scenario, on either side."""

    type = "alias"

    def __init__(self, table: TakeAlias, place: Place, memory: Memory) -> None:
        self.limit, self.place, self._memory = table.limit, place, memory
        self.names = [name.upper() for name in table.names]
        self._samba = Samba(place)
        self._takes = place.side == "replica"

    def describe(self, act: Act) -> str:
        verbs = {Act.APPLY: ("give up", "take"), Act.REVERT: ("take back", "give back")}
        verb = verbs[act][self._takes] if act in verbs else act
        return f"{verb} NetBIOS names {' '.join(self.names)}, restart nmbd"

    def check(self, deadline: Deadline) -> Sentences:
        """Raises HostError, ConfigError (Samba is not ready), NetworkError (another host answers for a name)."""
        self._samba.must_be_ready(deadline)
        return [self._standing(name, deadline) for name in self.names]

    def apply(self, deadline: Deadline) -> Sentences:
        """Raises RhaError, after the include is as before and nmbd was started again."""
        said = self.check(deadline)
        if self._is_done(deadline):
            return [f"{name} is {'an alias here' if self._takes else 'given up'} already" for name in self.names]
        self._memory.save(Before(self.names))
        try:
            self._change(self.names, deadline)
            return [*said, *self._wait(deadline, here=self._takes)]
        except RhaError as error:
            raise self._taken_back(error) from error

    def revert(self, deadline: Deadline) -> Sentences:
        """Raises HostError, StateError."""
        before = self._memory.load(Before)
        if before is None:
            return [f"{' '.join(self.names)}: nothing was changed"]
        self._change([], deadline)
        said = self._wait(deadline, here=not self._takes)
        self._memory.clear()
        return said

    def verify(self, deadline: Deadline) -> Sentences:
        """Raises StateError, NetworkError when a broadcast for a name is not answered as it should be."""
        return [self._must_answer(name, deadline, here=self._takes) for name in self.names]

    def _standing(self, name: str, deadline: Deadline) -> str:
        others = self._others(name, deadline)
        if others and self._takes:
            hint = "is the master still on the network? Nothing was changed"
            raise NetworkError(f"NetBIOS name {name} is in use", cause=f"{others[0]} answers for it", hint=hint)
        return f"{name} is answered by {others[0]}" if others else f"nobody else answers for {name}"

    def _others(self, name: str, deadline: Deadline) -> list[str]:
        return [ip for ip in self._samba.answers(name, deadline) if not _is_ours(ip)]

    def _is_done(self, deadline: Deadline) -> bool:
        if self._memory.load(Before) is None:
            return False
        with self._samba.names(deadline) as names:
            part = names.taken if self._takes else names.given
            is_written = part.get(self.place.scenario) == self.names
        return is_written and all(self._answers_here(name, deadline) == self._takes for name in self.names)

    def _answers_here(self, name: str, deadline: Deadline) -> bool:
        return any(_is_ours(ip) for ip in self._samba.answers(name, deadline))

    def _change(self, wanted: list[str], deadline: Deadline) -> None:
        with self._samba.names(deadline) as names:
            part = names.taken if self._takes else names.given
            part.pop(self.place.scenario, None)
            if wanted:
                part[self.place.scenario] = wanted
        self._samba.restart(deadline)

    def _wait(self, deadline: Deadline, *, here: bool) -> Sentences:
        """After a restart nmbd is silent for a second or more: it asks the segment for each name first. So "it does
        not answer" means something only once it answers for all that its configuration says."""
        begun = time.monotonic()
        for name in self._samba.configured(deadline):
            while not self._answers_here(name, deadline):
                deadline.pause(POLL_SECONDS)
        said = [self._must_answer(name, deadline, here=here) for name in self.names]
        return [*said, f"nmbd has registered its names, after {show_seconds(time.monotonic() - begun)}"]

    def _must_answer(self, name: str, deadline: Deadline, *, here: bool) -> str:
        if self._answers_here(name, deadline) != here:
            verb = "does not answer" if here else "still answers"
            raise NetworkError(f"this host {verb} for NetBIOS name {name}", hint=f"nmblookup {name}")
        others = self._others(name, deadline)
        if others and here:
            raise NetworkError(f"two hosts answer for NetBIOS name {name}", cause=f"the other is {others[0]}")
        return f"{name} is answered by {'this host' if here else ' '.join(others) or 'nobody here'}"

    def _taken_back(self, error: RhaError) -> RhaError:
        try:
            self._change([], Deadline(self.limit))
        except RhaError as worse:
            return StateError(error.what, cause=f"{error.cause}; NOT REVERTED: {worse.what}", hint=error.hint)
        self._memory.clear()
        cause = f"{error.cause}; the names are as before" if error.cause else "the names are as before"
        return type(error)(error.what, cause=cause, hint=error.hint, code=error.code)


def _is_ours(ip: str) -> bool:
    return links.holder(ipaddress.ip_interface(ip)) is not None
