"""What every test may use: loop devices, and the rule for tests that need root."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from demo import hypervisor

# A busy machine is no failure: what hangs is ended by pytest's own time limit.
hypothesis.settings.register_profile("rha", deadline=None)
hypothesis.settings.load_profile("rha")

UNMOUNT_SECONDS = 30
NO_SKIP = os.environ.get("RHA_NO_SKIP") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` skip for everybody else."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With RHA_NO_SKIP=1 (CI) a skipped test has failed: what is not run is not known to work."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped where every test must run: {reason}"
    return report  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a whole module that skips itself (`pytest.importorskip`)."""
    report: pytest.CollectReport = yield  # type: ignore[assignment]
    if NO_SKIP and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped where every test must run: {report.longrepr}"
    return report  # type: ignore[return-value]


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`loop_device(bytes, *options)` makes a zeroed loop device on a sparse file and returns its path.

    `directory` moves the file (`/dev/shm` for a device in memory). All is detached when the test ends.
    """
    with ExitStack() as stack:

        def make(size: int, *options: str, directory: Path = tmp_path) -> str:
            file = directory / f"loop-{os.getpid()}-{len(list(directory.glob('loop-*')))}.raw"
            stack.callback(file.unlink)
            with file.open("xb") as handle:
                handle.truncate(size)
            device = subprocess.check_output(["losetup", "--find", "--show", *options, str(file)], text=True).strip()
            stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
            return device

        yield make


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`mounted(device, "ext4", *mount options)` makes a file system and mounts it. Returns the mount point."""
    with ExitStack() as stack:

        def make(device: str, kind: str, *options: str) -> Path:
            force = {"xfs": "-f", "btrfs": "-f"}.get(kind, "-F")
            subprocess.run([f"mkfs.{kind}", force, device], check=True, capture_output=True)
            point = tmp_path / f"mnt-{Path(device).name}"
            point.mkdir()
            subprocess.run(["mount", *options, device, str(point)], check=True)
            stack.callback(_unmount, point)
            return point

        yield make


def _unmount(point: Path) -> None:
    """Busy while a process that was killed still ends."""
    until = time.monotonic() + UNMOUNT_SECONDS
    while (done := subprocess.run(["umount", str(point)], capture_output=True, text=True, check=False)).returncode:
        assert "busy" in done.stderr, done.stderr
        assert time.monotonic() < until, done.stderr
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ceph() -> Iterator[Any]:
    """A Ceph cluster of its own (tests/ceph_cluster.py): seven seconds on a quiet machine."""
    from tests import ceph_cluster

    with ceph_cluster.running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def libvirt_answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """libvirt's daemons run while the tests do; where no systemd starts them, they are ours and end with the tests."""
    with hypervisor.running(tmp_path_factory.mktemp("libvirt")):
        yield
