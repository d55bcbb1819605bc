"""On a host with AppArmor (Debian's default) QEMU opens only what libvirt's own helper lets it, by the description."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rha.image import formats
from rha.scenario import Forward, Network
from rha.vm.base import InCeph, VmSpec
from rha.vm.libvirt import LibvirtHost

pytestmark = pytest.mark.root
HELPER = "/usr/lib/libvirt/virt-aa-helper"
NAME = f"rha-confined-{os.getpid()}"


@pytest.fixture
def spec(store: Path) -> VmSpec:
    """Of a test's domain, an overlay on a raw file."""
    (store / "web").mkdir()
    disk = store / "web" / "root.qcow2"
    (store / "web" / "root.raw").write_bytes(bytes(1 << 20))
    formats.overlay(disk, store / "web" / "root.raw", "raw")
    return VmSpec(
        name=NAME, scenario="web", memory=64 << 20, cpus=1, firmware="bios", bus="virtio", accelerator="tcg",
        disks=(disk,), backing=(store / "web" / "root.raw",),
        network=Network(kind="user", forward=[Forward(host_port=1, guest_port=22)]),
        folder=store / "web", store=store, isolated=True,
    )  # fmt: skip


def rules_of(host: LibvirtHost, spec: VmSpec) -> str:
    """What the helper would load."""
    host.define(spec)
    try:
        domain = host._domain(NAME)
        words = [HELPER, "--dryrun", "--create", "--uuid", f"libvirt-{domain.UUIDString()}"]
        done = subprocess.run(words, input=domain.XMLDesc(), capture_output=True, text=True, check=True)
        return done.stdout + done.stderr
    finally:
        host.undefine(NAME)


def test_the_disks_of_a_test_may_be_opened(libvirt_host: LibvirtHost, spec: VmSpec) -> None:
    """An NBD socket below a qcow2 would not be among them: that is why a raw file is."""
    rules = rules_of(libvirt_host, spec)
    assert f'"{spec.disks[0]}" rwk,' in rules
    assert f'"{spec.backing[0]}" rk,' in rules
    assert f'"{spec.console}" rw,' in rules


def test_what_lies_above_an_image_in_ceph_may_be_opened(libvirt_host: LibvirtHost, spec: VmSpec) -> None:
    """The chain is told in the description; the cluster itself is reached by the network, which every VM has."""
    point = spec.folder / "root.point.qcow2"
    formats.overlay(point, spec.backing[0], "raw")
    below = InCeph((point,), "vms/root", ("127.0.0.1:1",), "rha", "")
    rules = rules_of(libvirt_host, replace(spec, in_ceph={spec.disks[0]: below}))
    assert f'"{spec.disks[0]}" rwk,' in rules
    assert f'"{point}" rk,' in rules
    assert str(spec.backing[0]) not in rules, "libvirt was told of nothing else"
