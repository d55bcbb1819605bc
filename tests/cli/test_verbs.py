"""The verbs against real files and real control sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from rha.cli import ask, failover, main, verify
from rha.control import local
from rha.errors import Exit, StateError
from rha.report import DiskReport, Point, Report, VmReport

ASKED = {"person": ask.person(), "reason": "", "at": ""}
Output = pytest.CaptureFixture[str]


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(local, "RUN_DIR", tmp_path / "run")
    return tmp_path / "run"


def report(**changes: Any) -> Report:
    disk = DiskReport(name="root", device="/dev/vda", bytes=1 << 30, state="write-order", why="", since=0)
    fields = {
        "role": "appliance",
        "scenario": "web1",
        "mode": "dr",
        "time": time.time(),
        "health": "alarm",
        "state": "master lost",
        "why": "no heartbeat for 6 s",
        "disks": [disk],
        "consistent": Point(lsn=4096, time=time.time() - 6),
    }
    return Report(**{**fields, **changes})


def answering(*reports: Report) -> Callable[[], Any]:
    return lambda: msgspec.to_builtins(list(reports))


def test_status_of_two_daemons(run_dir: Path, capsys: Output) -> None:
    first, second = report(role="engine", scenario="db"), report()
    with local.serve(run_dir / "engine-db.sock", {"status": answering(first)}):
        with local.serve(run_dir / "appliance.sock", {"status": answering(second)}):
            assert main.run(["status", "--json"]) == Exit.OK
    shown = msgspec.json.decode(capsys.readouterr().out, type=list[Report])
    assert shown == [first, second]


def test_status_of_a_dead_daemon(run_dir: Path, capsys: Output) -> None:
    run_dir.mkdir()
    (run_dir / "engine-web1.sock").touch()
    assert main.run(["status", "--json"]) == Exit.NETWORK
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["scenario"], shown["state"], shown["health"]) == ("web1", "missing", "unknown")


def test_status_of_an_unreadable_answer(run_dir: Path, capsys: Output) -> None:
    with local.serve(run_dir / "engine-web1.sock", {"status": lambda: [{"role": 7}]}):
        assert main.run(["status"]) == Exit.NETWORK
    assert "a form that this rha cannot read" in capsys.readouterr().out


def test_status_json_has_no_nan(run_dir: Path, capsys: Output) -> None:
    """NaN is no JSON; on the way through a daemon it becomes null."""
    with local.serve(run_dir / "a.sock", {"status": answering(report(lag_seconds=float("nan")))}):
        main.run(["status", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["lag_seconds"] is None


EQUAL = {"equal": True, "compared_bytes": 1 << 30, "differing": [], "busy_ranges": 0, "sentence": "all blocks match"}


def test_verify_equal(run_dir: Path, capsys: Output) -> None:
    with local.serve(run_dir / "engine-web1.sock", {"verify": lambda: EQUAL}):
        assert main.run(["verify", "web1"]) == Exit.OK
    assert capsys.readouterr().out == "equal\n  all blocks match\n  compared 1 GiB\n"


def test_verify_different(run_dir: Path, capsys: Output) -> None:
    ranges = [{"disk": "root", "offset": 65536 * i, "bytes": 512} for i in range(verify.MAX_RANGES_SHOWN + 2)]
    answer = {**EQUAL, "equal": False, "differing": ranges, "busy_ranges": 3, "sentence": "22 ranges differ"}
    with local.serve(run_dir / "engine-web1.sock", {"verify": lambda: answer}):
        assert main.run(["verify", "web1"]) == Exit.DIFFERENT
        text = capsys.readouterr().out
        assert main.run(["verify", "web1", "--json"]) == Exit.DIFFERENT
        assert json.loads(capsys.readouterr().out) == answer
    assert "  disk root: offset 65536, 512 bytes\n" in text
    assert "  3 ranges were written meanwhile and could not be judged\n" in text
    assert text.endswith("  … and 2 more ranges\n")


def test_verify_without_engine(run_dir: Path, capsys: Output) -> None:
    assert main.run(["verify", "web1"]) == Exit.NETWORK
    assert "error: no daemon answers on" in capsys.readouterr().err


class Appliance:
    """Handlers of an appliance whose failover takes a moment and is seen through `status`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.now = report()

    def status(self) -> Any:
        return msgspec.to_builtins([msgspec.structs.replace(self.now, time=time.time())])

    def failover(self, **words: Any) -> dict[str, Any]:
        self.asked.append(words)
        if words["dry_run"]:
            return {"steps": ["apply the spool", "start the VM"], "sentence": "nothing was done"}
        vm = VmReport(domain="rha-web1", state="booting")
        self.now = report(state="failing over", why="waiting for the service", vm=vm)
        time.sleep(3 * ask.POLL_SECONDS)
        return {"sentence": "serving after 38 s"}

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {"status": self.status, "failover": self.failover}


def test_failover_with_progress(run_dir: Path, capsys: Output) -> None:
    appliance = Appliance()
    with local.serve(run_dir / "appliance.sock", appliance.handlers()):
        assert main.run(["failover", "web1", "--yes"]) == Exit.OK
    text = capsys.readouterr().out
    assert text.startswith("web1 appliance (dr)  ALARM  master lost\n")
    assert "A substitute VM of web1 will start from the replica" in text
    assert text.count("failing over: waiting for the service; VM rha-web1 booting") == 1
    assert "\nserving after 38 s\n\nweb1 appliance (dr)  ALARM  failing over\n" in text, "the state after stands last"
    assert appliance.asked == [{**ASKED, "scenario": "web1", "force": False, "dry_run": False}]


def test_failover_dry_run_needs_no_yes(run_dir: Path, capsys: Output) -> None:
    appliance = Appliance()
    with local.serve(run_dir / "appliance.sock", appliance.handlers()):
        assert main.run(["failover", "web1", "--dry-run", "--force"]) == Exit.OK
    assert capsys.readouterr().out.endswith("  1. apply the spool\n  2. start the VM\nnothing was done\n")
    assert appliance.asked == [{**ASKED, "scenario": "web1", "force": True, "dry_run": True}]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_failover_without_a_yes_does_nothing(
    run_dir: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    appliance = Appliance()
    monkeypatch.setattr("sys.stdin.isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(click, "confirm", lambda text, default: default)
    with local.serve(run_dir / "appliance.sock", appliance.handlers()):
        assert main.run(["failover", "web1"]) == Exit.STATE
    assert "not confirmed; nothing was changed" in capsys.readouterr().err
    assert appliance.asked == []


def test_failover_refused_by_the_appliance(run_dir: Path, capsys: Output) -> None:
    def refuse(**words: Any) -> None:
        raise StateError("the master answers", cause="tcp web1:443", hint="rha failover web1 --force")

    with local.serve(run_dir / "appliance.sock", {**Appliance().handlers(), "failover": refuse}):
        assert main.run(["failover", "web1", "--yes"]) == Exit.STATE
    assert "error: the master answers\n" in capsys.readouterr().err


def test_failover_of_an_unknown_scenario(run_dir: Path, capsys: Output) -> None:
    with local.serve(run_dir / "appliance.sock", Appliance().handlers()):
        assert main.run(["failover", "db", "--yes"]) == Exit.STATE
    assert "cause: it has: web1" in capsys.readouterr().err


def test_consequence_names_a_connected_master_and_a_missing_point() -> None:
    text = failover.consequence(report(connected=True, consistent=None), force=True)
    assert "THE MASTER IS CONNECTED" in text
    assert "no consistent point" in text
    assert "--force" in text


def test_sample_scenario_is_right(tmp_path: Path, capsys: Output) -> None:
    assert main.run(["scenario", "sample"]) == Exit.OK
    path = tmp_path / "sample.toml"
    path.write_text(capsys.readouterr().out)
    assert main.run(["scenario", "check", str(path)]) == Exit.OK
    assert "is right: scenario web1, dr, one disk" in capsys.readouterr().out


def test_wrong_scenario_stops_the_engine_before_it_begins(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "empty.toml"
    path.touch()
    assert main.run(["engine", "--scenario", str(path)]) == Exit.CONFIG
    assert "has 3 mistakes" in capsys.readouterr().err


def test_pki_from_nothing_to_certificates(tmp_path: Path, capsys: Output) -> None:
    directory = str(tmp_path / "pki")
    assert main.run(["pki", "init", directory, "--name", "Example"]) == Exit.OK
    words = ["pki", "issue", "appliance", "backup", "--dir", directory, "--address", "192.0.2.7", "--address", "backup"]
    assert main.run(words) == Exit.OK
    assert main.run(["pki", "issue", "master", "web1", "--dir", directory, "--days", "10"]) == Exit.OK
    capsys.readouterr()
    files = [f"{directory}/{name}.pem" for name in ("ca", "appliance-backup", "master-web1")]
    assert main.run(["pki", "show", *files]) == Exit.OK
    text = capsys.readouterr().out
    assert "  role        appliance\n  addresses   192.0.2.7, backup\n" in text
    assert "  role        master\n  scenario    web1\n" in text
    assert "(9 days left)" in text
    assert main.run(["pki", "init", directory, "--name", "Example"]) == Exit.STATE


@pytest.mark.parametrize("days", ["0", "-1", "ten"])
def test_pki_bad_days(tmp_path: Path, days: str) -> None:
    assert main.run(["pki", "init", str(tmp_path / "pki"), "--name", "X", "--days", days]) == Exit.USAGE
    assert not (tmp_path / "pki").exists()
