"""NetBIOS aliases on real Samba (nmbd), each host in its own network and UTS namespace; a third host asks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rha.errors import ConfigError, HostError, NetworkError
from rha.redirect.alias import Alias
from rha.redirect.base import Act, Memory, Place
from rha.scenario import Duration, TakeAlias
from tests.redirect.wires import Host, Segment, eventually

pytestmark = pytest.mark.root
_CONFIG = """\
[global]
  netbios name = {name}
  netbios aliases = {aliases}
  workgroup = RHATEST
  interfaces = eth0
  bind interfaces only = yes
  server string = test
  log file = {folder}/log
  lock directory = {folder}
  state directory = {folder}
  cache directory = {folder}
  private dir = {folder}
  pid directory = {folder}
  ncalrpc dir = {folder}/ncalrpc
  local master = no
  include = {folder}/rha.conf
"""
_RESTART = """#!/bin/sh
[ -e {folder}/nmbd.pid ] && kill $(cat {folder}/nmbd.pid)
while [ -e {folder}/nmbd.pid ] && kill -0 $(cat {folder}/nmbd.pid) 2>/dev/null; do sleep 0.05; done
exec nmbd -D -s {folder}/smb.conf
"""


class Samba:
    """nmbd of one host."""

    def __init__(self, host: Host, folder: Path, name: str, aliases: str = "") -> None:
        folder.mkdir()
        self.host, self.folder = host, folder
        (folder / "smb.conf").write_text(_CONFIG.format(folder=folder, name=name, aliases=aliases))
        self.restart = folder / "restart"
        self.restart.write_text(_RESTART.format(folder=folder))
        self.restart.chmod(0o755)
        host.run(str(self.restart))

    def place(self, scenario: str, side: str) -> Place:
        return Place(
            scenario=scenario,
            side=side,
            memory=self.folder / f"memory-{scenario}",
            samba_config=self.folder / "smb.conf",
            samba_include=self.folder / "rha.conf",
            nmbd_restart=(str(self.restart),),
        )

    def do(self, act: Act, *names: str, scenario: str = "web", side: str = "replica") -> list[str]:
        table = TakeAlias(names=list(names), limit=Duration(40))
        place = self.place(scenario, side)
        alias = Alias(table, place, Memory(place.memory / "0-alias.json"))
        return self.host.call(lambda: alias.do(act))

    def stop(self) -> None:
        pid = int((self.folder / "nmbd.pid").read_text())
        subprocess.run(["kill", "-9", str(pid)], check=True)


@pytest.fixture
def new_samba(segment: Segment, tmp_path: Path):
    made: list[Samba] = []

    def make(name: str, address: str, aliases: str = "") -> Samba:
        made.append(Samba(segment.host(address), tmp_path / name, name, aliases))
        return made[-1]

    yield make
    for samba in made:
        samba.stop()


@pytest.fixture
def asked(segment: Segment, tmp_path: Path):
    """`asked(name)`: the address that a third host finds for it; empty: none."""
    client = segment.host("192.0.2.3/24")
    config = tmp_path / "client.conf"
    config.write_text("[global]\ninterfaces = eth0\n")

    def ask(name: str) -> str:
        words = [*client.prefix, "nmblookup", f"--configfile={config}", name]
        lines = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout.splitlines()
        return next((line.split()[0] for line in lines if line.endswith("<00>")), "")

    return ask


def test_two_masters_on_one_replica_and_its_own_alias(new_samba, asked) -> None:
    replica = new_samba("BACKUP", "192.0.2.2/24", "OWN")
    eventually(lambda: asked("OWN") == "192.0.2.2", 30)
    replica.do(Act.CHECK, "files1")
    assert "FILES1 is answered by this host" in replica.do(Act.APPLY, "files1")
    replica.do(Act.APPLY, "FILES2", scenario="other")
    assert "already" in replica.do(Act.APPLY, "files1")[0]
    assert [asked(name) for name in ("FILES1", "FILES2", "OWN", "BACKUP")] == ["192.0.2.2"] * 4
    replica.do(Act.VERIFY, "FILES1")
    replica.do(Act.REVERT, "FILES1")
    assert replica.do(Act.REVERT, "FILES1") == ["FILES1: nothing was changed"]
    assert [asked(name) for name in ("FILES1", "FILES2", "OWN")] == ["", "192.0.2.2", "192.0.2.2"]
    with pytest.raises(NetworkError, match="this host does not answer for NetBIOS name FILES1"):
        replica.do(Act.VERIFY, "FILES1")
    replica.do(Act.REVERT, "FILES2", scenario="other")
    assert not (replica.folder / "rha.conf").exists()


def test_a_name_in_use_is_refused_until_the_master_gives_it_up(new_samba, asked) -> None:
    master, replica = new_samba("FILES", "192.0.2.1/24", "ALIAS"), new_samba("BACKUP", "192.0.2.2/24")
    eventually(lambda: asked("FILES") == "192.0.2.1" and asked("ALIAS") == "192.0.2.1", 30)
    for act in (Act.CHECK, Act.APPLY):
        with pytest.raises(NetworkError, match="NetBIOS name FILES is in use") as refused:
            replica.do(act, "FILES", "ALIAS")
        assert refused.value.cause == "192.0.2.1 answers for it"
    assert not (replica.folder / "rha.conf").exists()
    master.do(Act.APPLY, "FILES", "ALIAS", side="master")
    assert [asked(name) for name in ("FILES", "ALIAS", "FILES-RHA")] == ["", "", "192.0.2.1"]
    replica.do(Act.APPLY, "FILES", "ALIAS")
    assert [asked(name) for name in ("FILES", "ALIAS")] == ["192.0.2.2", "192.0.2.2"]
    replica.do(Act.REVERT, "FILES", "ALIAS")
    master.do(Act.REVERT, "FILES", "ALIAS", side="master")
    assert [asked(name) for name in ("FILES", "ALIAS", "FILES-RHA")] == ["192.0.2.1", "192.0.2.1", ""]


def test_nmbd_that_does_not_start_leaves_the_names_as_they_were(new_samba, asked) -> None:
    replica = new_samba("BACKUP", "192.0.2.2/24")
    working = replica.restart.read_text()
    flag = replica.folder / "broken"
    flag.touch()
    replica.restart.write_text(working.replace("#!/bin/sh", f"#!/bin/sh\nif [ -e {flag} ]; then rm {flag}; exit 7; fi"))
    with pytest.raises(HostError, match="nmbd does not start again") as failed:
        replica.do(Act.APPLY, "FILES")
    assert "the names are as before" in failed.value.cause
    assert not (replica.folder / "rha.conf").exists()
    assert asked("FILES") == ""
    eventually(lambda: asked("BACKUP") == "192.0.2.2", 30)


@pytest.mark.parametrize("change", ["no include", "a name after it"])
def test_a_configuration_that_would_not_obey(new_samba, change: str) -> None:
    replica = new_samba("BACKUP", "192.0.2.2/24")
    path = replica.folder / "smb.conf"
    text = path.read_text()
    no_include = text.replace("include =", "; include =")
    path.write_text(no_include if change == "no include" else text + "  NetBIOS Aliases = OTHER\n")
    with pytest.raises(ConfigError, match="does not read") as refused:
        replica.do(Act.CHECK, "FILES")
    assert refused.value.hint == f"add to [global]: include = {replica.folder}/rha.conf"
