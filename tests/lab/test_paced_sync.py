"""A sync that may take only so much of the disk takes its time, and tells afterwards what it did."""

from __future__ import annotations

import subprocess

import pytest

from proof.lab import MIB, RHA, Lab, environment, wait_for

pytestmark = pytest.mark.root


def test_the_limit_holds_and_the_history_keeps_the_figures(lab: Lab) -> None:
    disk = lab.disk(48 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], sync='block"\nread_limit = "6MiB/s"\npriority = "idle')
    engine.start()
    wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    last = engine.report()["disks"][0]["last_sync"]
    assert (last["method"], last["read_bytes"]) == ("full", 48 * MIB)
    assert last["seconds"] >= 48 / 6 * 0.95, "faster than the limit allows"
    said = subprocess.run(
        [*RHA, "history", engine.name],
        env=environment(lab.folder / "run"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "first sync: read 48 MiB, sent" in said
