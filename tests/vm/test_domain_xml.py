"""The domain's description, checked by libvirt's own schema where its tool is there."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from rha.scenario import Forward, Network
from rha.vm.base import InCeph, VmSpec
from rha.vm.domain_xml import console_of, disk_name, domain_xml, owner_of, secret_id, secrets_of
from rha.vm.libvirt import has_established

USER = Network(kind="user", forward=[Forward(host_port=2222, guest_port=22)])
SPEC = VmSpec(
    name="rha-web", scenario="web", memory=1 << 30, cpus=2, firmware="bios", bus="virtio", accelerator="tcg",
    disks=(Path("/s/a.qcow2"), Path("/s/b.qcow2")), backing=(), network=Network(), folder=Path("/s"), store=Path("/s"),
)  # fmt: skip
FIRMWARE = {"firmware_code": Path("/f/code.fd"), "firmware_variables": Path("/f/vars.fd")}


NETWORKS = [Network(), USER, Network(kind="bridge", source="br0"), Network(kind="network", source="n")]


def validate(xml: str) -> None:
    """By libvirt's schema, in its in-process test driver: no daemon, no root."""
    host = libvirt.open("test:///default")
    for kind in ("kvm", "qemu"):
        xml = xml.replace(f'<domain type="{kind}"', '<domain type="test"').replace(
            f'type="{kind}"><name>', 'type="test"><name>'
        )
    host.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).undefine()
    host.close()


@pytest.mark.parametrize("bus", ["virtio", "sata", "ide"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.kind)
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_follows_the_schema(bus, network, firmware, accelerator):
    validate(
        domain_xml(replace(SPEC, bus=bus, network=network, firmware=firmware, accelerator=accelerator), **FIRMWARE)
    )


def test_an_image_in_ceph_and_its_overlay_follow_it():
    below = InCeph((Path("/s/point.qcow2"),), "vms/root", ("10.0.0.1:6789", "[fd00::1]:3300"), "rha", "c2VjcmV0")
    xml = domain_xml(replace(SPEC, in_ceph={Path("/s/b.qcow2"): below}))
    validate(xml)
    first, second = ET.fromstring(xml).iter("disk")
    assert first.find("backingStore") is None, "libvirt finds files by itself"
    assert second.find("backingStore/source").get("file") == "/s/point.qcow2"
    source = second.find("backingStore/backingStore/source")
    assert [(host.get("name"), host.get("port")) for host in source.iter("host")] == [
        ("10.0.0.1", "6789"),
        ("fd00::1", "3300"),
    ]
    assert secrets_of(xml) == [secret_id("rha-web", "vms/root")]
    assert "c2VjcmV0" not in xml, "libvirt has the key as a secret"
    assert "c2VjcmV0" not in repr(below)


def test_the_schema_is_looked_at():
    with pytest.raises(libvirt.libvirtError, match="schema"):
        validate(domain_xml(SPEC).replace("vcpu", "vcpux"))


def test_disks_keep_their_order():
    tree = ET.fromstring(domain_xml(SPEC))
    disks = [(d.find("source").get("file"), d.find("target").get("dev")) for d in tree.iter("disk")]
    assert disks == [("/s/a.qcow2", "vda"), ("/s/b.qcow2", "vdb")]


def test_mark_and_console_are_found_again():
    xml = domain_xml(SPEC)
    assert owner_of(xml) == "web"
    assert console_of(xml) == Path("/s/console.log")
    assert owner_of("<domain><name>rha-web</name></domain>") is None


def test_forwards():
    assert "user,id=rha0,hostfwd=tcp:127.0.0.1:2222-:22" in domain_xml(replace(SPEC, network=USER))


def test_an_isolated_guest_begins_nothing():
    alone = replace(SPEC, network=USER, isolated=True)
    assert "user,id=rha0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:2222-:22" in domain_xml(alone)
    validate(domain_xml(alone))
    for network in NETWORKS[2:]:
        with pytest.raises(ValueError, match="to be isolated"):
            replace(SPEC, network=network, isolated=True)


def test_a_guest_with_an_address_of_its_own():
    xml = domain_xml(replace(SPEC, network=USER, guest_address="192.0.2.10/24"))
    place = "net=192.0.2.0/24,host=192.0.2.1,dns=192.0.2.2,dhcpstart=192.0.2.10"
    assert f"user,id=rha0,{place},hostfwd=tcp:127.0.0.1:2222-192.0.2.10:22" in xml


def test_ide_needs_the_older_machine():
    assert 'machine="pc"' in domain_xml(replace(SPEC, bus="ide"))


def test_disk_names():
    assert [disk_name("virtio", n) for n in (0, 25, 26, 701, 702)] == ["vda", "vdz", "vdaa", "vdzz", "vdaaa"]


USERNET = """Hub -1 (rha0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[{}]    21       127.0.0.1 54321      10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  14       127.0.0.1  2222      10.0.2.15    22     0     0
"""


def test_only_established_counts():
    assert has_established(USERNET.format("ESTABLISHED"), 22)
    assert not has_established(USERNET.format("SYN_SENT"), 22)
    assert not has_established(USERNET.format("ESTABLISHED"), 5432)
