"""A clean state of the master for a moment: all of it or a refusal, and nothing stays held."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rha.capture.device import lookup
from rha.control import local
from rha.engine.quiesce import Quiescer
from rha.errors import RhaError
from rha.scenario import Appliance, Disk, Duration, Quiesce, QuiesceScript, Scenario
from tests.redirect.wires import eventually

pytestmark = pytest.mark.root
SIZE = 64 << 20

# An engine that is killed while everything is held and frozen.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.engine.test_quiesce import quiescer
quiescer(sys.argv[1], Path(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL), scripts=["calm"]).run()
"""


def quiescer(
    device: str,
    folder: Path,
    position: Callable[[], Any] = lambda: (1e9, 4096),
    *,
    scripts: list[str] | None = None,
    limit: float = 30,
    leave: list[str] | None = None,
    is_ordered: bool = True,
) -> Quiescer:
    scenario = Scenario(
        name="web1",
        disk=[Disk(name="root", device=device)],
        appliance=Appliance(address="127.0.0.1:1", ca="/x", certificate="/x", key="/x"),
        quiesce=Quiesce(
            limit=Duration(limit),
            leave=leave or [],
            app=[QuiesceScript(run=name, user="root", limit=Duration(30)) for name in scripts or []],
        ),
    )
    return Quiescer(scenario, [lookup(device)], position, lambda: is_ordered, folder)


@pytest.fixture
def disk(loop_device: Callable[..., str]) -> str:
    return loop_device(SIZE)


@pytest.fixture
def place(disk: str, mounted: Callable[..., Path]) -> Path:
    return mounted(disk, "ext4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For scripts: `calm` and `other` note when they are called, `veto` does not want."""
    monkeypatch.setattr(local, "RUN_DIR", tmp_path / "run")
    scripts = tmp_path / "scripts"
    scripts.mkdir(mode=0o755)
    for name, code in (("calm", 0), ("other", 0), ("veto", 3)):
        (scripts / name).write_text(f'#!/bin/sh\necho "{name} $RHA_ACT" >> {tmp_path}/said\nexit {code}\n')
        (scripts / name).chmod(0o755)
    return scripts


def said(folder: Path) -> list[str]:
    file = folder.parent / "said"
    return file.read_text().splitlines() if file.exists() else []


def is_writable(place: Path) -> bool:
    return subprocess.run(["touch", str(place / "x")], timeout=30, check=False).returncode == 0


def test_the_position_is_taken_while_all_is_held(disk: str, place: Path, folder: Path) -> None:
    writers: list[subprocess.Popen[bytes]] = []

    def position() -> tuple[float, int]:
        assert said(folder) == ["calm hold", "other hold"]
        writers.append(subprocess.Popen(["touch", str(place / "late")]))
        stat = Path(f"/proc/{writers[0].pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "D", 20)
        return 1e9, 4096

    found = quiescer(disk, folder, position, scripts=["calm", "other"]).run()
    assert found["by"] == ["script calm", "script other", f"{place}: frozen"]
    assert (found["lsn"], found["time"]) == (4096, 1e9)
    assert 0 < found["seconds"] < 30
    assert writers[0].wait(30) == 0
    assert said(folder) == ["calm hold", "other hold", "other let-go", "calm let-go"]


def test_a_veto_lets_all_go(disk: str, place: Path, folder: Path) -> None:
    one = quiescer(disk, folder, lambda: pytest.fail("a position was taken"), scripts=["calm", "veto", "other"])
    with pytest.raises(RhaError, match=r"script veto vetoes \(exit code 3\)"):
        one.run()
    assert said(folder) == ["calm hold", "veto hold", "calm let-go"]
    assert is_writable(place)


def test_killed_while_frozen(disk: str, place: Path, folder: Path, tmp_path: Path) -> None:
    """kill -9 of the engine: file systems are thawed at once and not only by the limit, applications are let go."""
    begun = time.monotonic()
    child = subprocess.run([sys.executable, "-c", KILLED, disk, str(folder)], check=False)
    assert child.returncode == -9
    assert is_writable(place)
    assert time.monotonic() - begun < 25
    eventually(lambda: said(folder) == ["calm hold", "calm let-go"], 30)


def test_over_the_limit_is_no_position(disk: str, place: Path, folder: Path) -> None:
    def position() -> tuple[float, int]:
        assert is_writable(place)  # waits until it is thawed
        return 1e9, 4096

    with pytest.raises(RhaError, match="was not frozen all the time"):
        quiescer(disk, folder, position, scripts=["calm"], limit=0.5).run()
    assert said(folder) == ["calm hold", "calm let-go"]


def test_what_is_left_out_is_not_frozen(disk: str, place: Path, folder: Path) -> None:
    def position() -> tuple[float, int]:
        assert is_writable(place)
        return 1e9, 4096

    assert quiescer(disk, folder, position, scripts=["calm"], leave=[str(place)]).run()["by"] == ["script calm"]


def test_nothing_to_be_quiesced(disk: str, folder: Path) -> None:
    with pytest.raises(RhaError, match="there is nothing to be quiesced"):
        quiescer(disk, folder).run()


def test_not_in_write_order(disk: str, place: Path, folder: Path) -> None:
    with pytest.raises(RhaError, match="not in write order"):
        quiescer(disk, folder, scripts=["calm"], is_ordered=False).run()
    assert said(folder) == []


def test_without_leave_of_the_scenario(disk: str, place: Path) -> None:
    scenario = Scenario(
        name="web1",
        disk=[Disk(name="root", device=disk)],
        appliance=Appliance(address="127.0.0.1:1", ca="/x", certificate="/x", key="/x"),
    )
    with pytest.raises(RhaError, match="may not be quiesced"):
        Quiescer(scenario, [lookup(disk)], lambda: (0.0, 0), lambda: True).run()


def test_one_after_the_other(disk: str, place: Path, folder: Path) -> None:
    """A second order while the first is being done, as behind a broken link: it waits, and is one of its own."""
    import threading

    inside: list[int] = []

    def position() -> tuple[float, int]:
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.2)
        inside.pop()
        return time.time(), 4096

    one = quiescer(disk, folder, position)
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(one.run())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({answer["time"] for answer in found}) == 3
