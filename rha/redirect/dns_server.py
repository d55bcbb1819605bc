"""One DNS server: questions and updates, and what its answers mean."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from rha.errors import Exit, NetworkError, StateError
from rha.redirect.base import Deadline
from rha.scenario_redirect import parse_server
from rha.wire.address import Address

ATTEMPT_SECONDS = 3.0  # of one message, so that a second server still gets its turn within the limit
_CHANGED = (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN)
_REFUSALS = {
    dns.rcode.REFUSED: ("refuses", "allow-update or update-policy of the zone; is the key the right one?"),
    dns.rcode.NOTAUTH: ("refuses the signature, or has no such zone", "compare key name and secret: tsig-keygen"),
    dns.rcode.SERVFAIL: ("failed at the update", "its log; may it write the zone's journal file?"),
    dns.rcode.NOTIMP: ("does not do dynamic updates", "name the zone's primary in `servers`"),
    dns.rcode.NOTZONE: ("says the name is outside the zone", "`zone` and `name` of the redirection"),
}
_SIGNATURES = {
    dns.tsig.PeerBadKey: ("BADKEY: it does not know the key", "the key's name, on both sides"),
    dns.tsig.PeerBadSignature: ("BADSIG: the secret is another one", "the secret, on both sides"),
    dns.tsig.PeerBadTime: ("BADTIME: the clocks differ too much", "timedatectl, on both sides"),
    dns.tsig.PeerBadTruncation: ("BADTRUNC: the signature is too short", "the key's algorithm"),
}


@dataclass(frozen=True)
class DnsServer:
    """`text`: as the scenario names it; `ip`: what its name resolved to."""

    text: str
    where: Address
    ip: str

    def dig(self, words: str) -> str:
        """A command that asks the same."""
        return f"dig @{self.where.host} -p {self.where.port} {words}"

    def ask(self, name: dns.name.Name, kind: str, deadline: Deadline) -> dns.message.Message:
        """What the server itself has, not what it would fetch. Raises NetworkError."""
        query = dns.message.make_query(name, kind)
        query.flags &= ~dns.flags.RD
        seconds = deadline.left(ATTEMPT_SECONDS)
        try:
            return dns.query.udp_with_fallback(query, self.ip, timeout=seconds, port=self.where.port)[0]
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise self._unreachable(error) from error

    def must_be_primary(self, zone: dns.name.Name, deadline: Deadline) -> None:
        """Raises NetworkError when it does not answer for the zone with authority."""
        answer = self.ask(zone, "SOA", deadline)
        has_authority = bool(answer.flags & dns.flags.AA)
        if not has_authority or answer.rcode() != dns.rcode.NOERROR:
            cause = f"{dns.rcode.to_text(answer.rcode())}, {'' if has_authority else 'not '}authoritative"
            what = f"{self.text} does not answer for zone {zone}"
            raise NetworkError(what, cause=cause, hint=self.dig(f"{zone} SOA"))

    def send(self, update: dns.update.UpdateMessage, name: dns.name.Name, deadline: Deadline) -> None:
        """By TCP: a lost UDP answer would leave open more often whether the update was done.

        Raises StateError when a prerequisite fails, NetworkError else; with Exit.UNKNOWN when no answer has come.
        """
        seconds = deadline.left(ATTEMPT_SECONDS)
        try:
            answer = dns.query.tcp(update, self.ip, timeout=seconds, port=self.where.port)
        except dns.tsig.PeerError as error:
            cause, hint = _SIGNATURES.get(type(error), (str(error), "the server's log"))
            raise NetworkError(f"{self.text} does not accept our signature", cause=cause, hint=hint) from error
        except ConnectionRefusedError as error:
            raise self._unreachable(error) from error
        except (dns.exception.Timeout, EOFError, ConnectionError) as error:
            what = f"{self.text} has not answered to the update of {name}"
            hint, code = self.dig(str(name)), Exit.UNKNOWN
            raise NetworkError(what, cause="done or not: unknown", hint=hint, code=code) from error
        except (OSError, dns.exception.DNSException) as error:
            raise self._unreachable(error) from error
        self._must_be_accepted(answer, name, signed=update.keyring is not None)

    def _must_be_accepted(self, answer: dns.message.Message, name: dns.name.Name, *, signed: bool) -> None:
        code = answer.rcode()
        cause = dns.rcode.to_text(code)
        if signed and not answer.had_tsig and code == dns.rcode.NOERROR:
            what = f"{self.text} answered to a signed update without a signature"
            raise NetworkError(what, cause="the answer may be forged", hint="is this the right server?")
        if code in _CHANGED:
            cause += ": it is not what it was when we looked"
            raise StateError(f"somebody else has changed {name} at {self.text}", cause=cause)
        if code != dns.rcode.NOERROR:
            verb, hint = _REFUSALS.get(code, ("does not accept the update", "its log"))
            raise NetworkError(f"{self.text} {verb}: {name}", cause=cause, hint=hint)

    def _unreachable(self, error: BaseException) -> NetworkError:
        silent = isinstance(error, dns.exception.Timeout)
        cause = "no answer in time" if silent else str(error) or type(error).__name__
        return NetworkError(f"DNS server {self.text} cannot be reached", cause=cause, hint=self.dig(". SOA"))


def resolve(text: str) -> DnsServer:
    """The server of a scenario's text. Raises NetworkError when its own name has no address."""
    where = parse_server(text)
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        hint = "name DNS servers by address: their names may be gone with them"
        raise NetworkError(f"DNS server {where.host} is not found", cause=str(error), hint=hint) from error
    return DnsServer(text, where, str(found[0][4][0]))
