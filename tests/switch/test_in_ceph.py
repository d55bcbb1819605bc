"""A substitute on an image in Ceph, under a real libvirt: QEMU comes to the cluster by itself, as its own user."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from rha.appliance import rbd_target
from rha.appliance.config import Target
from rha.image import formats
from rha.image.storage_daemon import ImageReader, ImageSpec, StorageDaemon
from rha.scenario import Vm
from rha.switch.failover import discard_substitute, run_failover
from rha.switch.progress import SERVING, Trigger
from rha.vm.accelerator import Accelerator
from rha.vm.domain_xml import secret_id
from rha.vm.libvirt import LibvirtHost
from rha.vm.live_disks import LiveDisks
from rha.vm.written import written
from tests.ceph_cluster import POOL, USER, Cluster
from tests.switch.one_scenario import OneScenario
from tests.vm.sectors import WRITTEN_SECTOR, writing_disk

pytestmark = pytest.mark.root
SIZE = 1 << 20
SCENARIO = f"ceph{os.getpid()}"
DOMAIN = f"rha-{SCENARIO}"
CAUSE = Trigger(by="appliance", reason="silent", decided=time.time())


@pytest.fixture
def in_ceph(ceph: Cluster, store: Path) -> Iterator[ImageSpec]:
    """An image of which a guest boots that writes to its disk; it stands in the scenario's folder."""
    folder = store / SCENARIO
    folder.mkdir(mode=0o700)
    spec = ImageSpec("root", folder / "root.rbd", "rbd")
    place = Target(scenario=SCENARIO, disk="root", rbd=f"{POOL}/root", conf=str(ceph.conf), user=USER)
    rbd_target.check(spec.path, place, SIZE)
    rbd_target.begin(spec.path, place, SIZE)
    content = writing_disk(folder / "wanted", b"guest is here", SIZE).read_bytes()
    with StorageDaemon([spec], folder / "run") as daemon:
        writer = daemon.writer("root")
        writer.write(0, content[:512])
        writer.flush()
        writer.close()
    yield spec
    ceph.remove("root")


@pytest.mark.parametrize("through_a_point", [False, True])
def test_it_boots_and_the_image_stays(
    ceph: Cluster,
    libvirt_host: LibvirtHost,
    store: Path,
    in_ceph: ImageSpec,
    through_a_point: bool,
) -> None:
    """`through_a_point`: as an earlier point is shown, by an overlay between the image and the substitute's own."""
    before = ceph.read("root")
    image = in_ceph.path
    if through_a_point:
        image = in_ceph.path.with_name("root.point.qcow2")
        formats.overlay(image, in_ceph.path, "rbd")
    host = OneScenario(store, [image], Vm(bus="virtio", memory=64 << 20))
    try:
        progress = run_failover(host, libvirt_host, CAUSE, choose_accelerator=lambda _: Accelerator("tcg", "tried"))
        assert progress.state == SERVING
        assert console_says(libvirt_host, "guest is here"), libvirt_host.console(DOMAIN)
        assert ceph.watchers("root"), "nobody but the VM's own process has it open"
        found = guests_disk(libvirt_host, Path(progress.images[0].overlay))
        assert found[:512] == before[:512]
        assert found[512 * WRITTEN_SECTOR :][:512] == b"W" * 512, "what a switchback would send home"
        (wrote,) = written(libvirt_host, DOMAIN, [("root", Path(progress.images[0].overlay))])
        assert (wrote.guest_bytes or 0) >= 512, wrote
        secret = secret_id(DOMAIN, f"{POOL}/root")
        connection = libvirt_host._connected()
        assert connection.secretLookupByUUIDString(secret).usageID() == f"{DOMAIN} {POOL}/root"
    finally:
        discard_substitute(host.folder, libvirt_host, SCENARIO)
    with pytest.raises(libvirt.libvirtError, match="no secret"):
        connection.secretLookupByUUIDString(secret)
    assert ceph.read("root") == before
    assert bytes(ceph.read("root")[512 * WRITTEN_SECTOR :][:512]) == bytes(512), "what the guest wrote was its own"


def guests_disk(vm: LibvirtHost, overlay: Path) -> bytes:
    """What the guest sees, read beside it."""
    disks = LiveDisks(vm, DOMAIN, [("root", overlay)], overlay.parent.parent)
    disks.begin()
    try:
        with ImageReader(disks.socket, "root") as reader:
            return reader.read(0, SIZE)
    finally:
        disks.end()


def console_says(host: LibvirtHost, text: str, seconds: float = 120) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if text in host.console(DOMAIN):
            return True
        time.sleep(0.1)
    return False
