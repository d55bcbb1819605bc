"""Substitute VMs on a real libvirt, emulated CPU."""

import os
import time
from dataclasses import replace

import pytest

from rha.errors import VmError
from rha.image import formats
from rha.scenario import Network
from rha.vm.base import DomainState, VmSpec
from rha.vm.libvirt import LibvirtHost
from tests.vm.png import read_png
from tests.vm.sectors import printing_disk

pytestmark = pytest.mark.root
NAME = f"rha-test-{os.getpid()}"


@pytest.fixture
def spec(store, libvirt_host):
    folder = store / "web"
    folder.mkdir(mode=0o700)
    printing_disk(folder / "image.raw", b"guest is here\r\n")
    formats.overlay(folder / "overlay.qcow2", folder / "image.raw", "raw")
    yield VmSpec(
        name=NAME, scenario="web", memory=64 << 20, cpus=1, firmware="bios", bus="virtio", accelerator="tcg",
        disks=(folder / "overlay.qcow2",), backing=(folder / "image.raw",),
        network=Network(), folder=folder, store=store,
    )  # fmt: skip
    libvirt_host.destroy(NAME)
    libvirt_host.undefine(NAME)


def console_says(host: LibvirtHost, text: str, seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if text in host.console(NAME):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("bus", ["virtio", "sata", "ide"])
@pytest.mark.parametrize("kind", ["none", "user"])
def test_boots_from_the_overlay(libvirt_host, spec, bus, kind):
    libvirt_host.define(replace(spec, bus=bus, network=Network(kind=kind)))
    assert libvirt_host.state(NAME) == DomainState.OFF
    libvirt_host.start(NAME)
    assert console_says(libvirt_host, "guest is here"), libvirt_host.console(NAME)
    assert libvirt_host.state(NAME) == DomainState.RUNNING
    libvirt_host.start(NAME)  # runs already: nothing to do
    libvirt_host.destroy(NAME)
    libvirt_host.destroy(NAME)
    libvirt_host.undefine(NAME)
    libvirt_host.undefine(NAME)
    assert libvirt_host.state(NAME) == DomainState.ABSENT


def test_uefi_starts_its_firmware(libvirt_host, spec):
    libvirt_host.define(replace(spec, firmware="uefi", memory=256 << 20))
    libvirt_host.start(NAME)
    assert console_says(libvirt_host, "BdsDxe", 60), libvirt_host.console(NAME)
    libvirt_host.destroy(NAME)
    assert spec.nvram.exists()
    libvirt_host.undefine(NAME)
    assert not spec.nvram.exists()


def test_the_guest_is_not_root(libvirt_host, spec):
    libvirt_host.define(spec)
    libvirt_host.start(NAME)
    assert os.stat(spec.disks[0]).st_uid != 0


def test_the_screen_is_kept_as_a_picture(libvirt_host, spec):
    picture = spec.folder / "screen.png"
    libvirt_host.define(spec)
    with pytest.raises(VmError, match="no picture"):
        libvirt_host.screenshot(NAME, picture)
    libvirt_host.start(NAME)
    assert console_says(libvirt_host, "guest is here")
    libvirt_host.screenshot(NAME, picture)
    width, height, rows = read_png(picture.read_bytes())
    assert (width, height) == (720, 400)  # VGA text mode
    assert len(set(rows)) > 2, "an empty screen: the firmware has written on it"


def test_a_guest_without_an_agent(libvirt_host, spec):
    libvirt_host.define(spec)
    libvirt_host.start(NAME)
    with pytest.raises(VmError) as caught:
        libvirt_host.ask_agent(NAME, "guest-ping", 1)
    assert "not connected" in caught.value.cause


def test_free_memory(libvirt_host):
    assert 16 << 20 < libvirt_host.free_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_our_own_leftover_is_replaced(libvirt_host, spec):
    libvirt_host.define(spec)
    libvirt_host.define(replace(spec, cpus=2))
    assert libvirt_host.owner(NAME) == "web"


def test_another_scenarios_domain_is_not_touched(libvirt_host, spec):
    libvirt_host.define(spec)
    with pytest.raises(VmError) as caught:
        libvirt_host.define(replace(spec, scenario="mail"))
    assert caught.value.cause == "it belongs to scenario web"
    assert libvirt_host.owner(NAME) == "web"


def test_a_running_domain_is_not_replaced(libvirt_host, spec):
    libvirt_host.define(spec)
    libvirt_host.start(NAME)
    with pytest.raises(VmError, match="runs already"):
        libvirt_host.define(spec)


def test_a_closed_folder_above_the_store_is_named(libvirt_host, spec, tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(VmError) as caught:
        libvirt_host.define(replace(spec, folder=tmp_path))
    assert caught.value.hint.startswith("chmod o+x ")


def test_no_daemon_has_a_hint():
    host = LibvirtHost("qemu+unix:///system?socket=/nonexistent")
    with pytest.raises(VmError) as caught:
        host.state(NAME)
    assert caught.value.hint.startswith("systemctl start libvirtd")
