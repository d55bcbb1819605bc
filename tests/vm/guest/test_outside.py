"""Around the process that looks into a guest: the kernel that libguestfs gets, the card's MAC, what is said."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rha.errors import HostError, VmError
from rha.scenario import Appliance, Network, Scenario, Vm
from rha.vm.card import network_of
from rha.vm.guest import kernel, outside


def put_kernel(root: Path, version: str, *, modules: bool = True) -> Path:
    image = root / "boot" / f"vmlinuz-{version}"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.touch()
    if modules:
        (root / "lib/modules" / version).mkdir(parents=True)
    return image


def test_a_kernel_of_this_host_needs_no_word(tmp_path):
    put_kernel(tmp_path / "root", "6.1.0-9")
    assert kernel.environment(tmp_path / "root", tmp_path / "unpacked", {}) == {}


def test_without_one_the_unpacked_one_is_taken(tmp_path):
    put_kernel(tmp_path / "root", "5.0", modules=False)
    put_kernel(tmp_path / "root", "5.1").chmod(0o600)
    image = put_kernel(tmp_path / "unpacked", "6.1.0-9")
    found = kernel.environment(tmp_path / "root", tmp_path / "unpacked", {})
    assert found == {
        "SUPERMIN_KERNEL": str(image),
        "SUPERMIN_MODULES": str(tmp_path / "unpacked/lib/modules/6.1.0-9"),
    }


def test_the_administrator_s_own_counts_first(tmp_path):
    own = {"SUPERMIN_KERNEL": "/k", "SUPERMIN_MODULES": "/m", "PATH": "/bin"}
    assert kernel.environment(tmp_path, tmp_path, own) == {"SUPERMIN_KERNEL": "/k", "SUPERMIN_MODULES": "/m"}


def test_none_at_all_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(HostError, match="no kernel for libguestfs") as caught:
        kernel.environment(tmp_path, tmp_path / "unpacked", {})
    assert "packaging/guest-kernel" in caught.value.hint


def network_with(network: Network, host: str, tmp_path: Path, name: str = "web") -> Network:
    (tmp_path / "machine-id").write_text(host)
    ends = Appliance(address="a:1", ca="/a", certificate="/b", key="/c")
    return network_of(Scenario(name=name, disk=[], appliance=ends, vm=Vm(network=network)), tmp_path / "machine-id")


def test_a_mac_is_made_of_host_and_scenario(tmp_path):
    user = Network(kind="user")
    macs = [network_with(user, host, tmp_path, name).mac for host in ("a", "b") for name in ("web", "db", "web")]
    assert len(set(macs)) == 4
    assert macs[0] == macs[2]
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)


def test_the_scenario_s_mac_counts_and_no_card_needs_none(tmp_path):
    assert network_with(Network(kind="user", mac="52:54:00:00:00:01"), "a", tmp_path).mac == "52:54:00:00:00:01"
    assert network_with(Network(kind="none"), "a", tmp_path).mac == ""


def test_an_answer_s_words_are_fit_for_a_terminal():
    said = b'{"said": ["a\\u001b[2Jb"], "warnings": ["x\\ny"], "system": "\\u0007"}'
    answer = outside._understood(said, b"", 0)
    assert (answer.said, answer.warnings, answer.system) == (["a [2Jb"], ["x y"], "")
    assert len(outside.plain("a" * 10_000)) == outside.SAID_CHARACTERS


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[" * 100_000, b'{"said": ["\xff"]}', b'{"bus": "scsi"}', b'{"kept": [{"path": 5}]}']
)
def test_what_is_no_answer_is_the_end_of_the_process(said):
    with pytest.raises(VmError, match="the process for the guest has died") as caught:
        outside._understood(said, b"Killed\n", -9)
    assert caught.value.cause == "exit status -9: Killed"


LOOK = """
import ctypes, os, sys
from rha.vm.guest import child
from rha.vm.guest.travel import Request
child._give_up_root(Request(act="revert", tcg=True, uid=int(sys.argv[1]), gids=[int(word) for word in sys.argv[2:]]))
signal = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(signal), 0, 0, 0)
print(os.getresuid(), os.getresgid(), sorted(os.getgroups()), signal.value, os.access("/root", os.R_OK))
"""


@pytest.mark.root
def test_the_process_is_not_root_and_dies_with_us():
    uid, gids = outside._user()
    words = [sys.executable, "-c", LOOK, str(uid), *map(str, gids)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    ids = [(uid,) * 3, (gids[0],) * 3, sorted(gids), int(signal.SIGKILL), False]
    assert uid != 0
    assert said == " ".join(map(str, ids)) + "\n"
