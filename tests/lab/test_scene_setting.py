"""The files and the network of `make lab`, without its machines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab import result, setting
from lab.__main__ import main
from lab.places import ETCD, SERVICE
from lab.result import Result
from lab.setting import Guard
from rha import scenario_check
from rha.errors import Exit
from vmlab.network import Segment

HERE, WEST, EAST = "10.78.233.1", "10.78.233.2", "10.78.233.3"


@pytest.mark.parametrize("guard", ["fence", "lease"])
def test_the_scenario_is_one(tmp_path: Path, guard: Guard) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(setting.scenario(7420, tmp_path / "lab.key", guard, ETCD, "lan0"))
    found = scenario_check.load(file)
    assert found.mode == "ha"
    assert (bool(found.fence), found.lease is not None) == (guard == "fence", guard == "lease")
    assert setting.service(guard) in found.check[0].address
    if found.lease:
        assert found.lease.addresses == [f"{SERVICE}/32"]


def test_the_fence_ends_who_has_the_disk_open_and_nobody_else(tmp_path: Path) -> None:
    disk = tmp_path / "system.raw"
    disk.write_bytes(b"disk")
    setting.write_fence(tmp_path / "scripts", disk)
    script = tmp_path / "scripts" / "cut-power"
    with disk.open("rb") as open_disk:
        machine = subprocess.Popen(["sleep", "600"], stdin=open_disk)
    try:
        subprocess.run([script], env={"PATH": "/usr/bin:/bin", "RHA_ACT": "check"}, check=True, timeout=60)
        assert machine.poll() is None
        done = subprocess.run([script], env={"PATH": "/usr/bin:/bin", "RHA_ACT": "cut"}, check=True, timeout=60)
        assert done.returncode == 0
        assert machine.wait(10) == -9
        subprocess.run([script], env={"PATH": "/usr/bin:/bin", "RHA_ACT": "cut"}, check=True, timeout=60)
    finally:
        machine.kill()
        machine.wait()


def _answers(segment: Segment, address: str) -> bool:
    words = [*segment.prefix, "ping", "-c", "1", "-W", "2", address]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.root
def test_cables_between_segments_and_to_this_host() -> None:
    with Segment() as west, Segment() as east:
        for segment, address in ((west, WEST), (east, EAST)):
            segment.ip("address", "add", f"{address}/24", "dev", "br0")
        cable = east.join(west)
        east.join_host(f"{HERE}/24")
        assert _answers(west, EAST)
        assert _answers(west, HERE)
        cable.plug(False)
        assert not _answers(west, HERE)
        assert _answers(east, HERE)
        cable.plug(True)
        assert _answers(west, HERE)
    shown = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout
    assert HERE not in shown, "this host's end of the cable is gone with the segment"


@pytest.mark.root
def test_an_unknown_scene_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power-cut", "flood"]) == Exit.CONFIG
    assert "no scene is called flood" in capsys.readouterr().err


def test_the_file_of_results(tmp_path: Path) -> None:
    result.write(tmp_path / "build" / "lab.json", {"power-cut": Result(ok=True, rto_seconds=1.23456)})
    found = json.loads((tmp_path / "build" / "lab.json").read_text())["scenes"]["power-cut"]
    assert (found["ok"], found["rto_seconds"], found["plain_boot_seconds"]) == (True, 1.235, None)
    assert {"rpo_seconds", "detect_seconds", "boot_seconds", "redirect_seconds"} <= set(found)
