"""The engine on a substitute: it says what it is, asks nobody, and serves what the lease names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from rha import substitute
from rha.control import local
from rha.engine.standin import StandIn, served_here
from rha.errors import ConfigError, NetworkError, StateError
from rha.fence.serving import Host
from rha.scenario import Appliance, Disk, Guest, Lease, Scenario, Vm
from rha.substitute import Mark
from tests.fence.master import SYSTEMCTL

MARK = Mark(scenario="web", since=1_700_000_000.0)
DAEMON = "import sys; from pathlib import Path; from rha import substitute; substitute.MARK = sys.argv[2]; "
DAEMON += "from rha.engine import daemon; sys.exit(daemon.run(Path(sys.argv[1])))"


def scenario(lease: Lease | None = None, guest: Guest | None = None) -> Scenario:
    ends = Appliance(address="127.0.0.1:1", ca="/a", certificate="/b", key="/c")
    return Scenario(
        name="web",
        disk=[Disk(name="root", device="/dev/x")],
        appliance=ends,
        lease=lease,
        vm=Vm(guest=guest or Guest()),
    )


def test_the_mark_travels(tmp_path: Path) -> None:
    path = tmp_path / "substitute"
    assert substitute.load(path) is None
    path.write_bytes(substitute.encode(MARK))
    assert substitute.load(path) == MARK
    assert "is the substitute of web, made 2023-11-" in MARK.sentence()


def test_a_mark_that_cannot_be_read_is_no_licence(tmp_path: Path) -> None:
    path = tmp_path / "substitute"
    path.write_bytes(b"{")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        substitute.load(path)
    assert f"rm {path}" in caught.value.hint


def test_it_says_what_it_is() -> None:
    found = StandIn(scenario(), MARK, print)
    assert (found.report().state, found.report().health) == ("substitute", "warning")
    assert found.report().why == MARK.sentence()
    with pytest.raises(StateError, match="this host is a substitute"):
        found.refuse()


def test_the_lease_s_units_are_started_without_the_lease(tmp_path: Path) -> None:
    """Nobody listens where etcd should be; systemd is a stand-in whose units are real processes."""
    systemctl, unit = tmp_path / "systemctl", tmp_path / "web.service"
    systemctl.write_text(SYSTEMCTL)
    unit.write_text("#!/bin/sh\nexec sleep 600\n")
    for path in (systemctl, unit):
        path.chmod(0o755)
    said: list[str] = []
    lease = Lease(endpoints=["http://127.0.0.1:1"], units=["web.service"])
    found = StandIn(scenario(lease), MARK, said.append, Host(systemctl=(str(systemctl),)))
    try:
        found._serve()
        assert said == ["web.service is being started"]
        assert b"active" in subprocess.check_output([systemctl, "show", "web.service"])
    finally:
        os.kill(int((tmp_path / "units/web.service").read_text()), signal.SIGKILL)


def test_what_cannot_be_served_is_an_alarm_once_said() -> None:
    said: list[str] = []
    lease = Lease(endpoints=["http://127.0.0.1:1"], addresses=["192.0.2.9/24"], interface="no-such-card")
    found = StandIn(scenario(lease), MARK, said.append)
    found._serve()
    found._serve()
    assert len(said) == 1
    assert "no-such-card" in said[0]
    assert (found.report().health, found.report().alarms) == ("alarm", said)


def test_in_another_network_the_master_s_addresses_are_not_set() -> None:
    lease = Lease(endpoints=["http://127.0.0.1:1"], addresses=["192.0.2.9/24"], interface="eth0", units=["a.service"])
    assert served_here(scenario(lease)) == lease
    moved = served_here(scenario(lease, Guest(addresses=["198.51.100.9/24"])))
    assert moved == msgspec.structs.replace(lease, addresses=[])


@pytest.mark.root
def test_the_daemon_does_not_connect(tmp_path: Path) -> None:
    """The whole engine, with certificates that do not exist and an appliance that would notice."""
    (tmp_path / "substitute").write_bytes(substitute.encode(MARK))
    with socket.create_server(("127.0.0.1", 0)) as appliance:
        file = tmp_path / "web.toml"
        file.write_text(
            'name = "web"\n[[disk]]\nname = "root"\ndevice = "/dev/no-such-disk"\n'
            f'[appliance]\naddress = "127.0.0.1:{appliance.getsockname()[1]}"\n'
            'ca = "/a"\ncertificate = "/b"\nkey = "/c"\n[link]\nheartbeat = "100ms"\nlost_after = "1s"\n'
        )
        command = [sys.executable, "-c", DAEMON, str(file), str(tmp_path / "substitute")]
        environment = {**os.environ, "RHA_RUN_DIR": str(tmp_path / "run")}
        engine = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            (report,) = ask(tmp_path / "run/engine-web.sock", engine)
            assert report["why"] == MARK.sentence()
            appliance.settimeout(1.0)
            with pytest.raises(TimeoutError):
                appliance.accept()
        finally:
            engine.terminate()
            said = engine.communicate(timeout=60)[0]
    assert said == f"rha engine web: {MARK.sentence()}\n"
    assert engine.returncode == 0


def ask(path: Path, engine: subprocess.Popen[str]) -> list[dict[str, object]]:
    until = time.monotonic() + 120
    while time.monotonic() < until and engine.poll() is None:
        try:
            return local.call(path, "status")
        except NetworkError:
            time.sleep(0.1)
    raise AssertionError("the engine does not answer")
