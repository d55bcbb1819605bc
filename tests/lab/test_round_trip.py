"""The whole circle with a real engine: protected, failed over, home again, protected as before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proof.lab import RHA, Disk, Lab, environment, wait_for
from rha.vm.base import domain_name
from rha.vm.libvirt import LibvirtHost
from tests.switch.writing_guest import BEGUN, PAGE_BYTES, boot_sector, expected, writes_of
from tests.vm.real import libvirt_host, store  # noqa: F401

pytestmark = pytest.mark.root
SIZE = 32 << 20
VM = '[vm]\nmemory = "64MiB"\naccelerator = "tcg"\n'


@pytest.fixture
def site(lab: Lab, store: Path) -> Iterator[Lab]:  # noqa: F811
    config = lab.folder / "appliance.toml"
    config.write_text(config.read_text().replace(str(lab.folder / "store"), str(store)))
    lab.appliance.store = store
    yield lab
    lab.stack.close()


def rha(lab: Lab, *words: str) -> str:
    done = subprocess.run(
        [*RHA, *words], env=environment(lab.folder / "run"), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{lab.appliance.log()[-3000:]}"
    return done.stdout


def content(disk: Disk) -> bytes:
    disk.sync()
    return disk.file.read_bytes()


def test_protected_failed_over_home_again_protected(site: Lab, libvirt_host: LibvirtHost) -> None:  # noqa: F811
    """The master's probe is in the kernel all the time, as on a master that did not reboot."""
    disk = site.disk(SIZE)
    with open(disk.path, "r+b") as device:
        device.write(boot_sector(SIZE, 8))
    engine = site.engine([disk.path], more=VM)
    domain = domain_name(engine.name)
    site.stack.callback(libvirt_host.undefine, domain)
    site.stack.callback(libvirt_host.destroy, domain)
    site.appliance.start()
    engine.start()
    engine.wait_ordered()
    site.appliance.wait_applied(engine.name)

    engine.kill()
    with open(disk.path, "r+b") as device:  # what the master wrote and nobody has received: it is given up
        device.seek(SIZE // 2)
        device.write(b"lost" * 1024)
    disk.sync()
    wait_for(lambda: not site.appliance.report(engine.name)["connected"], 60)
    rha(site, "failover", engine.name, "--yes")
    wait_for(lambda: BEGUN in libvirt_host.console(domain), 60)

    receiver = subprocess.Popen(
        [*RHA, "receive", "--scenario", str(engine.scenario_file), "--yes"],
        env=environment(site.folder / "run"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: site.appliance.report(engine.name).get("back"), 60, site.appliance.log)
        rha(site, "switchback", engine.name, "--yes")
        assert "may boot" in receiver.communicate(timeout=60)[0]
    finally:
        receiver.kill()
        receiver.wait()
    home = content(disk)
    assert home == expected(SIZE, writes_of(home))

    engine.start()
    engine.wait_ordered(120)
    assert "loaded the probe" in engine.log()
    with open(disk.path, "r+b") as device:
        device.seek(PAGE_BYTES)
        device.write(b"new" * 1000)
    site.assert_equal(engine, [disk])
