"""What changes inside a guest: every sample becomes exactly what a person has written beside it."""

import msgspec
import pytest

from rha.substitute import MARK
from rha.vm.guest.adapt import LINK, plan
from rha.vm.guest.tree import File, Wish
from tests.vm.guest.trees import CARD, FULL, MAC, SAMPLES, files_below, tree_of

NAMES = sorted(path.name for path in SAMPLES.iterdir())
NETPLAN = "/etc/netplan/a.yaml"


def changed(tree, wish: Wish) -> dict[str, bytes]:
    found = plan(tree, wish, b"mark")
    assert found.warnings == []
    edits = {edit.path: edit.content for edit in found.edits}
    assert edits.pop(MARK) == b"mark"
    return edits


@pytest.mark.parametrize("name", NAMES)
def test_addresses_gateway_and_dns(name):
    assert changed(tree_of(name), FULL) == files_below(SAMPLES / name / "after")


@pytest.mark.parametrize("name", NAMES)
def test_a_second_time_changes_nothing_more(name):
    """The overlay is thrown away when a run is cut off; still no text may depend on how often."""
    once = changed(tree_of(name), FULL)
    again = changed(tree_of(name) | {path: File(content) for path, content in once.items()}, FULL)
    assert again == {path: content for path, content in once.items() if path in again}


@pytest.mark.parametrize("name", NAMES)
def test_for_a_new_card_only_what_knows_it_by_hardware_changes(name):
    edits = changed(tree_of(name), CARD)
    before = tree_of(name)
    for path in set(edits) & set(before):
        knew = b"52:54:00:12:34:56" in before[path].content
        assert knew == (MAC in edits[path].decode().lower())
        assert knew or b"optional: true" in edits[path]
    assert set(edits) - set(before) <= {LINK, "/etc/cloud/cloud-init.disabled"}


def of(path: str, text: str) -> dict[str, File]:
    return {path: File(text.encode())}


def said_of(tree, wish: Wish) -> tuple[list[str], list[str]]:
    found = plan(tree, wish, b"")
    return found.said, found.warnings


def test_a_setting_for_any_card_needs_no_name():
    text = "[Match]\nType=ether\n[Network]\nDHCP=yes\n"
    assert said_of(of("/etc/systemd/network/a.network", text), CARD) == (["systemd-networkd: takes any card"], [])


def test_an_unknown_set_up_is_left_alone_and_said():
    said, warnings = said_of(of("/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\n"), FULL)
    assert said == []
    assert warnings[0].startswith(
        "no network set-up that is known (netplan, NetworkManager, systemd-networkd, ifupdown)"
    )


def test_of_two_with_a_default_route_one_has_to_be_named():
    text = "network: {ethernets: {a0: {dhcp4: true}, b0: {dhcp4: true}}}\n"
    assert "a0, b0" in said_of(of(NETPLAN, text), FULL)[1][0]
    assert "name one in vm.guest.interface" in said_of(of(NETPLAN, text), FULL)[1][0]
    named = msgspec.structs.replace(FULL, interface="b0")
    assert b"Name=b0" in changed(of(NETPLAN, text), named)[LINK]


def test_an_interface_that_is_not_there_is_named_with_those_that_are():
    text = "auto eth0\niface eth0 inet dhcp\n"
    wish = msgspec.structs.replace(CARD, interface="eth7")
    assert said_of(of("/etc/network/interfaces", text), wish)[1] == [
        "no interface eth7 in the guest's files; there are eth0"
    ]


def test_a_vlan_s_card_needs_no_file_of_its_own():
    path = "/etc/NetworkManager/system-connections/v.nmconnection"
    text = "[connection]\ntype=vlan\ninterface-name=eno1.7\n[vlan]\nid=7\nparent=eno1\n[ipv4]\nmethod=auto\n"
    assert changed(of(path, text), CARD)[LINK].endswith(b"Name=eno1\n")


def test_a_gateway_alone_leaves_the_addresses():
    text = "network: {ethernets: {a0: {addresses: [192.0.2.5/24], gateway4: 192.0.2.1}}}\n"
    wish = Wish(mac=MAC, driver="virtio_net", gateways=["192.0.2.254"])
    after = changed(of(NETPLAN, text), wish)[NETPLAN].decode()
    assert "192.0.2.5/24" in after
    assert "via: 192.0.2.254" in after
    assert "gateway4" not in after


def test_the_other_family_stays():
    text = "[Match]\nName=eth0\n[Network]\nDHCP=yes\nAddress=2001:db8::5/64\n"
    wish = Wish(mac=MAC, driver="virtio_net", addresses=["192.0.2.9/24"])
    path = "/etc/systemd/network/a.network"
    assert changed(of(path, text), wish)[path].decode().splitlines()[3:] == [
        "Address=2001:db8::5/64",
        "DHCP=ipv6",
        "Address=192.0.2.9/24",
    ]


def test_drop_ins_that_could_say_otherwise_are_refused():
    path = "/etc/systemd/network/a.network"
    tree = of(path, "[Match]\nName=eth0\n[Network]\nDHCP=yes\n") | of(f"{path}.d/x.conf", "[Network]\nDHCP=yes\n")
    said, warnings = said_of(tree, FULL)
    assert warnings == [f"{path} has drop-ins in {path}.d"]
    assert said == ["systemd-networkd: the new card gets the name eth0"], "the card itself is fitted all the same"


def test_two_that_go_by_their_mac_are_two():
    files = {n: f"[Match]\nMACAddress=52:54:00:00:00:0{n}\n[Network]\nDHCP=yes\n" for n in (1, 2)}
    tree = {f"/etc/systemd/network/{n}.network": File(text.encode()) for n, text in files.items()}
    assert "1.network, 2.network" in said_of(tree, FULL)[1][0]
    named = msgspec.structs.replace(CARD, interface="lan0")
    assert changed(tree, named)[LINK].endswith(b"Name=lan0\n")


def test_the_host_name_goes_into_both_files():
    tree = of("/etc/hostname", "web1\n") | of("/etc/hosts", "127.0.1.1 web1.example web1\n192.0.2.1 web1\n")
    edits = changed(tree, Wish(hostname="dr1"))
    assert edits == {
        "/etc/hostname": b"dr1\n",
        "/etc/hosts": b"127.0.1.1 dr1.example dr1\n192.0.2.1 web1\n",
    }


def test_without_a_card_the_network_is_not_looked_at():
    assert changed(tree_of("netplan") | of(NETPLAN, "{"), Wish()) == {"/etc/cloud/cloud-init.disabled": b""}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "network: &a [*a]",
        "[" * 2000,
        "a: 1\n" * 20_000,
        "network: {ethernets: 7}",
        "network: {ethernets: {a0: [1]}}",
        "network: {ethernets: {a0: {addresses: {x: y}, routes: 5, nameservers: []}}}",
        "network: {bridges: {b0: {interfaces: [b0], dhcp4: true}}}",
        "\x00\xff",
        "network:\n  ethernets:\n    ? [a]\n    : {}",
    ],
)
def test_hostile_yaml_ends_in_a_sentence(text):
    found = plan({NETPLAN: File(text.encode("latin-1"))}, FULL, b"")
    assert found.warnings or found.said


@pytest.mark.parametrize("name", ["../../etc/passwd", "eth0\nName=x", "a" * 16, "eth*", "", "$(reboot)"])
def test_a_hostile_name_never_gets_into_the_link_file(name):
    text = f"[Match]\nName={name}\n[Network]\nDHCP=yes\n"
    edits = {edit.path: edit.content for edit in plan(of("/etc/systemd/network/a.network", text), CARD, b"").edits}
    lines = edits.get(LINK, b"").decode().splitlines()
    assert [line for line in lines if line.startswith("Name=")] in ([], ["Name=eth0"])


def test_bytes_that_are_no_utf8_survive():
    path = "/etc/network/interfaces"
    tree = {path: File(b"# caf\xe9\nauto eth0\niface eth0 inet dhcp\n")}
    assert b"# caf\xe9\n" in changed(tree, FULL)[path]
