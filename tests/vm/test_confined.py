"""On a host with AppArmor (Debian's default) QEMU opens only what libvirt's own helper lets it, by the description."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rha.image import formats
from rha.scenario import Forward, Network
from rha.vm.base import VmSpec
from rha.vm.libvirt import LibvirtHost

pytestmark = pytest.mark.root
HELPER = "/usr/lib/libvirt/virt-aa-helper"
NAME = f"rha-confined-{os.getpid()}"


@pytest.fixture
def profile(store: Path, libvirt_host: LibvirtHost) -> Iterator[tuple[VmSpec, str]]:
    """Of a test's domain, overlays on raw files, and the rules that the helper would load."""
    (store / "web").mkdir()
    disk = store / "web" / "root.qcow2"
    (store / "web" / "root.raw").write_bytes(bytes(1 << 20))
    formats.overlay(disk, store / "web" / "root.raw", "raw")
    spec = VmSpec(
        name=NAME, scenario="web", memory=64 << 20, cpus=1, firmware="bios", bus="virtio", accelerator="tcg",
        disks=(disk,), backing=(store / "web" / "root.raw",),
        network=Network(kind="user", forward=[Forward(host_port=1, guest_port=22)]),
        folder=store / "web", store=store, isolated=True,
    )  # fmt: skip
    libvirt_host.define(spec)
    try:
        domain = libvirt_host._domain(NAME)
        words = [HELPER, "--dryrun", "--create", "--uuid", f"libvirt-{domain.UUIDString()}"]
        done = subprocess.run(words, input=domain.XMLDesc(), capture_output=True, text=True, check=True)
        yield spec, done.stdout + done.stderr
    finally:
        libvirt_host.undefine(NAME)


def test_the_disks_of_a_test_may_be_opened(profile: tuple[VmSpec, str]) -> None:
    """An NBD socket below a qcow2 would not be among them: that is why a raw file is."""
    spec, rules = profile
    assert f'"{spec.disks[0]}" rwk,' in rules
    assert f'"{spec.backing[0]}" rk,' in rules
    assert f'"{spec.console}" rw,' in rules
