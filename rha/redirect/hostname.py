"""The computer's name: the appliance takes the master's, the master becomes NAME-RHA. `/etc/hostname`, `/etc/hosts` and
the kernel's name, in that order: a crash in between leaves what the next boot makes whole.

Only the loopback lines of `/etc/hosts` are changed; a line that names the master by its address keeps it.
"""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import msgspec

from rha.errors import HostError, RhaError, StateError
from rha.redirect.base import Act, Deadline, Memory, Place, Redirection, Sentences, write_durably
from rha.scenario import TakeName
from rha.scenario_redirect import SUFFIX

_LOCAL = re.compile(r"^(127\.\S+|::1)\s")


class Before(msgspec.Struct):
    """The memory: the name of the kernel and both files as they were. `hostname` None: there was no such file."""

    name: str
    hostname: str | None
    hosts: str
    wanted: str


class Hostname(Redirection):
    """One side's name."""

    type = "hostname"

    def __init__(self, table: TakeName, place: Place, memory: Memory) -> None:
        self.table, self.place, self._memory = table, place, memory
        self.limit = table.limit
        self.wanted = table.name if place.side == "replica" else table.name + SUFFIX
        self._hostname, self._hosts = place.root / "etc/hostname", place.root / "etc/hosts"

    def describe(self, act: Act) -> str:
        if act is Act.REVERT:
            return "give this host its own name back"
        return f"rename this host to {self.wanted}" if act is Act.APPLY else f"{act} that this host is {self.wanted}"

    def check(self, deadline: Deadline) -> Sentences:
        """Raises HostError when it may not be renamed, StateError when it has a name that is nobody's here."""
        name = socket.gethostname()
        self._must_be_writable()
        if self.place.side == "master" and _short(name) not in (self.table.name, self.wanted):
            cause = f"it is {name}; the scenario's master is {self.table.name}"
            raise StateError(f"this host is not {self.table.name}", cause=cause, hint="`name` of the redirection")
        return [f"this host is {name}" + ("" if _short(name) != self.wanted else " already")]

    def apply(self, deadline: Deadline) -> Sentences:
        """Raises RhaError after name and files are as before."""
        name = socket.gethostname()
        if self._memory.load(Before) is None and _short(name) == self.wanted:
            return [f"this host is {name} already"]
        before = self._memory.load(Before) or self._now(name)
        self._memory.save(before)
        new = self.wanted + before.name[len(_short(before.name)) :]  # the domain stays
        try:
            write_durably(self._hostname, f"{new}\n".encode(), 0o644)
            write_durably(self._hosts, renamed(before.hosts, before.name, self.wanted).encode(), 0o644)
            _set_name(new)
            return [f"this host was {before.name}, is {new}", *self._restart(deadline)]
        except RhaError as error:
            raise self._taken_back(error, before) from error

    def revert(self, deadline: Deadline) -> Sentences:
        """What somebody has edited in the files meanwhile stays. Raises RhaError."""
        before = self._memory.load(Before)
        if before is None:
            return ["this host's name was not changed"]
        self._restore(before)
        said = self._restart(deadline)
        self._memory.clear()
        return [f"this host is {before.name} again", *said]

    def verify(self, deadline: Deadline) -> Sentences:
        """Raises StateError unless kernel, /etc/hostname and /etc/hosts agree on the name."""
        for where, name in (("the kernel", socket.gethostname()), (self._hostname, _read(self._hostname).strip())):
            if _short(name) != self.wanted:
                raise StateError(f"this host is not {self.wanted}", cause=f"{where} says {name or 'nothing'}")
        names = {word for line in _read(self._hosts).splitlines() for word in line.partition("#")[0].split()[1:]}
        if self.wanted not in names:
            raise StateError(f"{self._hosts} does not know {self.wanted}", cause="the host could not find itself")
        return [f"this host is {socket.gethostname()}"]

    def _now(self, name: str) -> Before:
        hostname = _read(self._hostname) if self._hostname.exists() else None
        return Before(name=name, hostname=hostname, hosts=_read(self._hosts), wanted=self.wanted)

    def _must_be_writable(self) -> None:
        try:
            for path in (self._hosts, self._hostname):
                if path.exists():
                    with path.open("r+b"):
                        pass
            _set_name(socket.gethostname())
        except OSError as error:
            raise HostError("this host cannot be renamed", cause=str(error), hint="run as root") from error

    def _restore(self, before: Before) -> None:
        """A file that is as we wrote it becomes as it was; one that was edited since is renamed line by line."""
        if before.hostname is None:
            self._hostname.unlink(missing_ok=True)
        else:
            write_durably(self._hostname, before.hostname.encode(), 0o644)
        now, ours = _read(self._hosts), renamed(before.hosts, before.name, before.wanted)
        back = before.hosts if now in (ours, before.hosts) else renamed(now, before.wanted, _short(before.name))
        write_durably(self._hosts, back.encode(), 0o644)
        _set_name(before.name)

    def _taken_back(self, error: RhaError, before: Before) -> RhaError:
        try:
            self._restore(before)
            self._restart(Deadline(self.limit))
        except RhaError as worse:
            return StateError(error.what, cause=f"{error.cause}; NOT REVERTED: {worse.what}", hint=error.hint)
        self._memory.clear()
        cause = "; ".join(filter(None, [error.cause, f"this host is {before.name} again"]))
        return type(error)(error.what, cause=cause, hint=error.hint, code=error.code)

    def _restart(self, deadline: Deadline) -> Sentences:
        """Units that read the name only when they start. Raises HostError."""
        for unit in self.table.restart:
            words = [*self.place.unit_restart, unit]
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=deadline.left(), check=False)
            except (subprocess.TimeoutExpired, OSError) as error:
                raise HostError(f"{unit} is not restarted", cause=str(error)) from error
            if done.returncode:
                hint = f"systemctl status {unit}"
                raise HostError(f"{unit} is not restarted", cause=done.stderr.strip()[-300:], hint=hint)
        return [f"restarted: {', '.join(self.table.restart)}"] if self.table.restart else []


def renamed(hosts: str, old: str, new: str) -> str:
    """The text of /etc/hosts with this host under another name. Only lines of loopback addresses speak of this host for
    certain; without one, Debian's 127.0.1.1 is added, so that the host finds itself."""
    short, lines, found = _short(old), [], False
    for line in hosts.splitlines(keepends=True):
        if _LOCAL.match(line):
            words, mark, comment = line.partition("#")
            words = re.sub(rf"(?<=\s){re.escape(short)}(?=[.\s]|$)", new, words)
            found = found or new in [_short(word) for word in words.split()[1:]]
            line = words + mark + comment
        lines.append(line)
    text = "".join(lines)
    if found:
        return text
    return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}127.0.1.1\t{new}\n"


def _short(name: str) -> str:
    return name.partition(".")[0]


def _set_name(name: str) -> None:
    """The kernel's name, in this thread's UTS namespace. Raises HostError."""
    try:
        socket.sethostname(name)
    except OSError as error:
        raise HostError(f"this host cannot be named {name}", cause=str(error), hint="run as root") from error


def _read(path: Path) -> str:
    """Empty when it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
