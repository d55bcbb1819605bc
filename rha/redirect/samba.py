"""Samba's NetBIOS names on this host: an include file that we write, `nmbd`, and who answers for a name.

`netbios aliases` is one parameter of which the last one counts. So the include holds the names of every scenario, and
those that smb.conf itself had. Each line of comment is a scenario's part; the parameters below follow from them.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import subprocess
from collections.abc import Iterator

import msgspec

from rha.errors import ConfigError, HostError, StorageError
from rha.redirect.base import Deadline, Place, write_durably
from rha.scenario_redirect import SUFFIX

NETBIOS_BYTES = 15
_PART = re.compile(r"^# (take|give|own) (\S+): (.*)$", re.MULTILINE)
_HEAD = "# Written by rha; do not edit. Names that were taken over or given up, a scenario a line.\n"
_ANSWER = re.compile(r"^(\d+\.\d+\.\d+\.\d+) \S+<00>", re.MULTILINE)


class Names(msgspec.Struct):
    """The include: names taken and given by scenario, and what smb.conf had. All in capitals."""

    own_name: str = ""
    own_aliases: list[str] = []
    taken: dict[str, list[str]] = {}
    given: dict[str, list[str]] = {}

    def text(self) -> str:
        """The file."""
        given = {name for names in self.given.values() for name in names}
        wanted = [*self.own_aliases, *(name for names in self.taken.values() for name in names)]
        aliases = [name for name in dict.fromkeys(wanted) if name not in given]
        lines = [f"# own {self.own_name}: {' '.join(self.own_aliases)}"]
        for verb, parts in (("take", self.taken), ("give", self.given)):
            lines += [f"# {verb} {scenario}: {' '.join(names)}" for scenario, names in sorted(parts.items())]
        lines.append(f"netbios aliases = {' '.join(aliases)}")
        if self.own_name in given:
            lines.append(f"netbios name = {self.own_name[: NETBIOS_BYTES - len(SUFFIX)]}{SUFFIX}")
        return _HEAD + "\n".join(lines) + "\n"


class Samba:
    """Samba on one host. Every program gets the host's own configuration file."""

    def __init__(self, place: Place) -> None:
        self.config, self.include, self._restart = place.samba_config, place.samba_include, place.nmbd_restart

    def must_be_ready(self, deadline: Deadline) -> None:
        """Raises HostError when a program is missing, ConfigError when smb.conf does not read our include last."""
        for program in ("nmbd", "nmblookup", "testparm"):
            if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
                raise HostError(f"{program} is not here", cause="an alias is Samba's", hint="apt install samba")
        try:
            lines = [line.strip() for line in self.config.read_text(encoding="utf-8", errors="replace").splitlines()]
        except OSError as error:
            raise ConfigError(f"{self.config} cannot be read", cause=error.strerror or str(error)) from error
        if not _reads(lines, str(self.include)):
            cause = "in [global], after every netbios parameter, is no line that includes our names"
            hint = f"add to [global]: include = {self.include}"
            raise ConfigError(f"{self.config} does not read {self.include}", cause=cause, hint=hint)
        self.parameter("netbios name", deadline)

    def parameter(self, name: str, deadline: Deadline) -> list[str]:
        """A parameter's words, in capitals, as Samba itself reads the file. Raises ConfigError."""
        done = self._run(["testparm", "-s", f"--parameter-name={name}", str(self.config)], deadline)
        if done.returncode:
            cause = done.stderr.strip().splitlines()[-1:] or ["testparm fails"]
            raise ConfigError(f"Samba does not read {self.config}", cause=cause[0], hint=f"testparm {self.config}")
        return [word.upper() for word in re.split(r"[,\s]+", done.stdout) if word]

    def configured(self, deadline: Deadline) -> list[str]:
        """Every name that nmbd shall answer for. Raises ConfigError."""
        return [name for kind in ("name", "aliases") for name in self.parameter(f"netbios {kind}", deadline)]

    def answers(self, name: str, deadline: Deadline) -> list[str]:
        """IPv4 addresses that answer a broadcast for the name; empty: nobody does."""
        done = self._run(["nmblookup", f"--configfile={self.config}", name], deadline)
        return _ANSWER.findall(done.stdout)

    @contextlib.contextmanager
    def names(self, deadline: Deadline) -> Iterator[Names]:
        """The include's content, to be changed; written when the block ends well. One at a time on this host."""
        with self.config.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            names = self._read(deadline)
            yield names
            if names.taken or names.given:
                write_durably(self.include, names.text().encode(), 0o644)
            else:
                self.include.unlink(missing_ok=True)

    def restart(self, deadline: Deadline) -> None:
        """A reload does not register new names: nmbd reads them only when it starts. Raises HostError."""
        done = self._run(list(self._restart), deadline)
        if done.returncode:
            cause = (done.stderr or done.stdout).strip()[-300:]
            raise HostError("nmbd does not start again", cause=cause, hint="journalctl -u nmbd; testparm")

    def _read(self, deadline: Deadline) -> Names:
        try:
            text = self.include.read_text(encoding="ascii")
        except FileNotFoundError:
            own = self.parameter("netbios name", deadline)
            return Names(own_name=own[0] if own else "", own_aliases=self.parameter("netbios aliases", deadline))
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{self.include} cannot be read", cause=str(error)) from error
        return _parse(text)

    def _run(self, words: list[str], deadline: Deadline) -> subprocess.CompletedProcess[str]:
        """Raises HostError when it cannot be started or does not end in time."""
        try:
            return subprocess.run(
                words, capture_output=True, text=True, timeout=deadline.left(), check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise HostError(f"{words[0]} does not end", cause=f"killed after {error.timeout:.0f} s") from error
        except OSError as error:
            raise HostError(f"{words[0]} cannot be run", cause=str(error)) from error


def _parse(text: str) -> Names:
    names = Names()
    for verb, scenario, words in _PART.findall(text):
        if verb == "own":
            names.own_name, names.own_aliases = scenario, words.split()
        else:
            (names.taken if verb == "take" else names.given)[scenario] = words.split()
    return names


def _reads(lines: list[str], include: str) -> bool:
    """Is the include in [global], and no netbios parameter after it?"""
    found, section = False, "global"
    for line in lines:
        if line.startswith("["):
            section = line.strip("[]").strip().lower()
        key, equals, value = line.partition("=")
        key = re.sub(r"\s+", "", key).lower()  # Samba ignores blanks and case in a parameter's name
        if section != "global" or not equals or line[:1] in "#;":
            continue
        if key == "include":
            found = found or value.strip() == include
        elif key in ("netbiosname", "netbiosaliases"):
            found = False
    return found
