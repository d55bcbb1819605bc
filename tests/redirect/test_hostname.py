"""The computer's name, in a UTS namespace and below a root folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from rha.errors import HostError, StateError
from rha.redirect.base import Act, Memory, Place
from rha.redirect.hostname import Hostname, renamed
from rha.scenario import TakeName
from tests.redirect.wires import Host

pytestmark = pytest.mark.root
HOSTS = """\
127.0.0.1\tlocalhost
127.0.1.1\tbackup.example.org\tbackup   # this host
192.0.2.10\tweb1 web1.example.org
::1 localhost ip6-localhost backup-6
"""


class Named:
    """A host with a name and an /etc."""

    def __init__(self, folder: Path, name: str) -> None:
        self.root, self.host = folder, Host()
        (folder / "etc").mkdir()
        (folder / "etc/hostname").write_text(f"{name}\n")
        (folder / "etc/hosts").write_text(HOSTS.replace("backup", name.partition(".")[0]))
        self.host.run("hostname", name)

    def do(self, act: Act, side: str = "replica", restart: tuple[str, ...] = (), command: str = "true") -> list[str]:
        place = Place(scenario="web1", side=side, memory=self.root / "m", root=self.root, unit_restart=(command,))
        part = Hostname(TakeName(name="web1", restart=list(restart)), place, Memory(self.root / "m/0-hostname.json"))
        return self.host.call(lambda: part.do(act))

    def all(self) -> tuple[str, str, str]:
        return self.host.run("hostname").strip(), self.read("hostname"), self.read("hosts")

    def read(self, name: str) -> str:
        return (self.root / "etc" / name).read_text()


@pytest.fixture
def named(tmp_path: Path):
    made: list[Named] = []

    def make(name: str) -> Named:
        made.append(Named(tmp_path, name))
        return made[-1]

    yield make
    for host in made:
        host.host.close()


def test_the_replica_takes_the_name_and_gives_it_back(named) -> None:
    host = named("backup")
    before = host.all()
    host.do(Act.CHECK)
    assert host.all() == before
    assert host.do(Act.APPLY) == ["this host was backup, is web1"]
    now = HOSTS.replace("backup.example.org\tbackup ", "web1.example.org\tweb1 ")
    assert host.all() == ("web1", "web1\n", now)
    host.do(Act.VERIFY)
    host.do(Act.APPLY)
    host.do(Act.REVERT)
    assert host.all() == before
    assert host.do(Act.REVERT) == ["this host's name was not changed"]
    with pytest.raises(StateError, match="this host is not web1"):
        host.do(Act.VERIFY)


def test_the_master_gets_the_suffix_and_keeps_its_domain(named) -> None:
    host = named("web1.example.org")
    before = host.all()
    host.do(Act.APPLY, "master")
    assert host.host.run("hostname").strip() == "web1-RHA.example.org"
    assert "192.0.2.10\tweb1 web1.example.org" in host.read("hosts")
    host.do(Act.VERIFY, "master")
    host.do(Act.REVERT, "master")
    assert host.all() == before


def test_a_host_that_is_not_the_master(named) -> None:
    with pytest.raises(StateError, match="this host is not web1"):
        named("other").do(Act.CHECK, "master")


def test_lines_written_meanwhile_stay(named) -> None:
    host = named("backup")
    host.do(Act.APPLY)
    (host.root / "etc/hosts").write_text(host.read("hosts") + "203.0.113.1 new\n")
    host.do(Act.REVERT)
    assert host.read("hosts") == HOSTS + "203.0.113.1 new\n"


def test_without_the_files(named) -> None:
    host = named("backup")
    for name in ("hostname", "hosts"):
        (host.root / "etc" / name).unlink()
    host.do(Act.APPLY)
    assert host.all() == ("web1", "web1\n", "127.0.1.1\tweb1\n")
    host.do(Act.REVERT)
    assert not (host.root / "etc/hostname").exists()


@pytest.mark.parametrize("command", ["false", "/no/such/program"])
def test_a_unit_that_does_not_restart(named, command: str) -> None:
    """Its own part is undone before the error: the restart that fails again then is named."""
    host = named("backup")
    before = host.all()
    with pytest.raises(StateError, match=r"nmbd\.service is not restarted") as failed:
        host.do(Act.APPLY, restart=("nmbd.service",), command=command)
    assert "NOT REVERTED" in failed.value.cause
    assert host.all() == before


def test_an_etc_that_cannot_be_written(named) -> None:
    host = named("backup")
    path = host.root / "etc/hosts"
    host.host.run("chattr", "+i", str(path))
    try:
        with pytest.raises(HostError, match="cannot be renamed"):
            host.do(Act.CHECK)
    finally:
        host.host.run("chattr", "-i", str(path))


@pytest.mark.parametrize(
    ("hosts", "after"),
    [
        ("127.0.1.1 a.b a\n", "127.0.1.1 z.b z\n"),
        ("127.0.1.1 a", "127.0.1.1 z"),
        ("127.0.1.1 aa a-a # a\n", "127.0.1.1 aa a-a # a\n127.0.1.1\tz\n"),
        ("192.0.2.1 a\n127.0.0.1 localhost", "192.0.2.1 a\n127.0.0.1 localhost\n127.0.1.1\tz\n"),
    ],
)
def test_only_this_hosts_lines(hosts: str, after: str) -> None:
    assert renamed(hosts, "a", "z") == after
