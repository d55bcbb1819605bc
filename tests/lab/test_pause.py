"""Maintenance in mode "ha": a dead master moves nothing, over a restart of the appliance, until somebody ends it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proof.lab import RHA, Lab, environment, wait_for
from rha.vm.libvirt import LibvirtHost
from tests.lab.test_one_writer import Site, assert_never_both, opened
from tests.vm.real import libvirt_host, store  # noqa: F401

pytestmark = pytest.mark.root


@pytest.fixture
def site(lab: Lab, libvirt_host: LibvirtHost, store: Path, tmp_path: Path) -> Iterator[Site]:  # noqa: F811
    with opened(Site, lab, libvirt_host, store, tmp_path) as site:
        yield site


def rha(site: Site, *words: str) -> str:
    variables = environment(site.lab.folder / "run")
    done = subprocess.run([*RHA, *words], env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_paused_it_only_says_what_it_would_do(site: Site) -> None:
    site.start()
    name = site.engine.name
    assert "paused by" in rha(site, "pause", name, "--for", "2h", "--reason", "disks are exchanged")
    site.engine.kill()
    site.lose_service()

    def told() -> bool:
        return "would fail over now, but paused by" in site.appliance()

    wait_for(told, 60, site.lab.appliance.log)
    site.lab.appliance.kill()
    site.lab.appliance.start()
    wait_for(told, 60, site.lab.appliance.log)
    assert not site.substitute()
    assert "disks are exchanged" in site.lab.appliance.report(name)["paused"]
    rha(site, "resume", name)
    assert assert_never_both(site, 90), site.lab.appliance.log()[-3000:]
