"""DNS: a name's A and AAAA records, or its CNAME, rewritten by dynamic update (RFC 2136), signed by TSIG (RFC 8945).

Every update carries prerequisites: the record is exactly what we believe it is. A record that somebody else has
changed meanwhile is never overwritten: the server itself refuses (NXRRSET, YXRRSET), so no moment lies between look
and act.
"""

from __future__ import annotations

import ipaddress

import dns.name
import dns.rcode
import dns.rdatatype
import dns.update
import msgspec

from rha.errors import Exit, NetworkError, RhaError, StateError
from rha.redirect import tsig
from rha.redirect.base import Act, Deadline, Memory, Place, Redirection, Sentences
from rha.redirect.dns_server import DnsServer, resolve
from rha.scenario import RewriteDns
from rha.scenario_redirect import absolute_name, is_address

POLL_SECONDS = 0.05


class Records(msgspec.Struct, frozen=True):
    """What a name leads to: `{"A": ("192.0.2.10",)}`; types without a record are absent. `ttl` in seconds."""

    values: dict[str, tuple[str, ...]]
    ttl: int

    def show(self) -> str:
        """`A 192.0.2.10, AAAA 2001:db8::10`, or `no record`."""
        parts = [f"{kind} {' '.join(values)}" for kind, values in sorted(self.values.items())]
        return ", ".join(parts) or "no record"

    def same_as(self, other: Records) -> bool:
        """The same answers, whatever the TTL."""
        return self.values == other.values


class Before(msgspec.Struct):
    """The memory: at each server (as in the scenario) the TTL that the record had before we changed it."""

    ttl: dict[str, int] = {}


class Dns(Redirection):
    """One name at one or more servers."""

    type = "dns"

    def __init__(self, table: RewriteDns, place: Place, memory: Memory) -> None:
        self.table, self.side, self._memory = table, place.side, memory
        self.limit = table.limit
        self.name = dns.name.from_text(absolute_name(table.name, table.zone))
        self.zone = dns.name.from_text(table.zone)
        ttl = max(1, round(table.ttl))
        self.master, self.replica = _records(table.master, ttl), _records(table.replica, ttl)
        self._types = ("CNAME",) if "CNAME" in self.master.values else ("A", "AAAA")

    def describe(self, act: Act) -> str:
        if self.side == "master":
            return f"nothing: {self.name} is rewritten by the appliance"
        servers = ", ".join(self.table.servers)
        then = {Act.APPLY: self.replica, Act.REVERT: self.master}.get(act)
        change = f"{self.name} to {then.show()}" if then else f"{act} {self.name}"
        return f"{'rewrite ' if then else ''}{change} at {servers}"

    def check(self, deadline: Deadline) -> Sentences:
        """Each server answers for the zone, shows the master's record and accepts an update that changes nothing.

        Raises NetworkError, StateError for a stranger's record.
        """
        if self.side == "master":
            return [self.describe(Act.CHECK)]
        return [self._check_one(server, deadline) for server in self._servers()]

    def apply(self, deadline: Deadline) -> Sentences:
        """Raises RhaError after the servers that were changed already have been changed back."""
        if self.side == "master":
            return [self.describe(Act.APPLY)]
        said: Sentences = []
        done: list[DnsServer] = []
        before = self._memory.load(Before) or Before()
        try:
            for server in self._servers():
                found = self._expected(server, deadline)
                if found.same_as(self.replica):
                    said.append(f"{server.text}: {self.name} is {found.show()} already")
                    continue
                before.ttl[server.text] = found.ttl
                self._memory.save(before)
                done.append(server)
                said.append(self._change(server, found, self.replica, deadline))
        except RhaError as error:
            raise self._taken_back(error, done, before) from error
        return said

    def revert(self, deadline: Deadline) -> Sentences:
        """Only where we have changed it. Raises RhaError; what could not be reverted stays in the memory."""
        before = self._memory.load(Before)
        if self.side == "master" or before is None:
            return [f"{self.name}: nothing was changed"]
        known = {server.text: server for server in self._servers()}
        said = []
        for text in list(before.ttl):
            server = known.get(text) or resolve(text)
            said.append(self._back(server, before.ttl[text], deadline))
            del before.ttl[text]
            self._memory.save(before)
        self._memory.clear()
        return said

    def verify(self, deadline: Deadline) -> Sentences:
        """Servers and secondaries answer with the substitute's record. Raises StateError when one does not in time."""
        if self.side == "master":
            return [self.describe(Act.VERIFY)]
        said = [self._must_show(server, self._look(server, deadline)) for server in self._servers()]
        return [*said, *(self._wait_for(resolve(text), deadline) for text in self.table.secondaries)]

    # One server -----------------------------------------------------------------------------------------------

    def _servers(self) -> list[DnsServer]:
        return [resolve(text) for text in self.table.servers]

    def _check_one(self, server: DnsServer, deadline: Deadline) -> str:
        server.must_be_primary(self.zone, deadline)
        found = self._expected(server, deadline)
        probe = self._update(found)
        other = self.master if found.same_as(self.replica) else self.replica
        for kind, values in other.values.items():
            for value in set(values) - set(found.values.get(kind, ())):
                probe.delete(
                    self.name, kind, value
                )  # not there: nothing changes, yet the server judges our right to it
        server.send(probe, self.name, deadline)
        return f"{server.text}: {self.name} is {found.show()}, TTL {found.ttl} s; updates are accepted"

    def _expected(self, server: DnsServer, deadline: Deadline) -> Records:
        """What the server has now: the master's or the substitute's record. Raises StateError for any other."""
        found = self._look(server, deadline)
        if found.same_as(self.master) or found.same_as(self.replica):
            return found
        raise StateError(
            f"{self.name} at {server.text} is neither the master's nor the substitute's",
            cause=f"it is {found.show()}; the scenario says {self.master.show()} and {self.replica.show()}",
            hint=f"somebody else's record is left alone; {server.dig(str(self.name))}",
        )

    def _look(self, server: DnsServer, deadline: Deadline) -> Records:
        values: dict[str, tuple[str, ...]] = {}
        ttl = 0
        for kind in dict.fromkeys((*self._types, "CNAME")):
            answer = server.ask(self.name, kind, deadline)
            if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                code = dns.rcode.to_text(answer.rcode())
                raise NetworkError(f"{server.text} does not answer for {self.name}", cause=code)
            for rrset in answer.answer:
                if rrset.name == self.name and rrset.rdtype == dns.rdatatype.from_text(kind):
                    values[kind], ttl = tuple(sorted(item.to_text() for item in rrset)), rrset.ttl
        return Records(values, ttl)

    def _change(self, server: DnsServer, now: Records, then: Records, deadline: Deadline) -> str:
        update = self._update(now)
        for kind in self._types:
            if kind not in now.values and kind not in then.values:
                continue  # the prerequisites say that it is absent; a key may have no right to such records
            update.delete(self.name, kind)
            for value in then.values.get(kind, ()):
                update.add(self.name, then.ttl, kind, value)
        server.send(update, self.name, deadline)
        return f"{server.text}: {self.name} was {now.show()}, is {then.show()}, TTL {then.ttl} s"

    def _back(self, server: DnsServer, ttl: int, deadline: Deadline) -> str:
        found = self._expected(server, deadline)
        if found.same_as(self.master):
            return f"{server.text}: {self.name} is {found.show()} already"
        return self._change(server, found, Records(self.master.values, ttl), deadline)

    def _taken_back(self, error: RhaError, done: list[DnsServer], before: Before) -> RhaError:
        """The same error, and what became of the servers that were changed before it. They get a limit of their own."""
        deadline, said = Deadline(self.limit), []
        for server in reversed(done):
            try:
                said.append(self._back(server, before.ttl[server.text], deadline))
                del before.ttl[server.text]
            except RhaError as worse:
                said.append(f"NOT REVERTED at {server.text}: {worse.what}")
        if before.ttl:
            self._memory.save(before)
        else:
            self._memory.clear()
        cause = "; ".join([error.cause, *said] if error.cause else said)
        is_known_again = error.code is Exit.UNKNOWN and not before.ttl
        return type(error)(error.what, cause=cause, hint=error.hint, code=None if is_known_again else error.code)

    def _wait_for(self, server: DnsServer, deadline: Deadline) -> str:
        """A secondary follows when it has been notified and has fetched the zone."""
        found = self._look(server, deadline)
        try:
            while not found.same_as(self.replica):
                deadline.pause(POLL_SECONDS)
                found = self._look(server, deadline)
        except RhaError:
            if not deadline.is_over:
                raise
        return self._must_show(server, found)

    def _must_show(self, server: DnsServer, found: Records) -> str:
        if not found.same_as(self.replica):
            cause = f"it answers {found.show()}"
            raise StateError(
                f"{server.text} does not show {self.name} moved", cause=cause, hint=server.dig(str(self.name))
            )
        return f"{server.text} answers {self.name}: {found.show()}, TTL {found.ttl} s"

    def _update(self, now: Records) -> dns.update.UpdateMessage:
        """An update whose prerequisites say: the name has exactly these records of our types."""
        key = tsig.load(self.table.key) if self.table.key else None
        update = dns.update.UpdateMessage(self.zone)
        if key:
            update.use_tsig(key)
        for kind in self._types:
            values = now.values.get(kind)
            if values:
                for value in values:
                    update.present(self.name, kind, value)
            else:
                update.absent(self.name, kind)
        return update


def _records(values: list[str], ttl: int) -> Records:
    """Addresses as A and AAAA, a name as CNAME; in the form that dnspython prints, sorted."""
    found: dict[str, list[str]] = {}
    for text in values:
        if is_address(text):
            address = ipaddress.ip_address(text)
            found.setdefault("A" if address.version == 4 else "AAAA", []).append(str(address))
        else:
            found.setdefault("CNAME", []).append(dns.name.from_text(text).to_text())
    return Records({kind: tuple(sorted(items)) for kind, items in found.items()}, ttl)
