"""The step that adapts a guest, with the real libguestfs: up to a domain that is defined, and the way back."""

import contextlib
import json
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from rha.errors import VmError
from rha.image.storage_daemon import ImageSpec
from rha.scenario import Guest, Network, Vm
from rha.switch import guest
from rha.switch.failover import discard_substitute, run_failover
from rha.switch.progress import trigger
from rha.vm.accelerator import Accelerator
from rha.vm.guest import outside
from rha.vm.guest.travel import Kept
from rha.vm.null import NullHost
from tests.switch.one_scenario import OneScenario
from tests.vm.guest.image import look, make_guest

pytestmark = pytest.mark.root
TCG = Accelerator("tcg", "for the test")
LIMIT = 250  # of each of the two starts of libguestfs; 25 s on two cores that are left alone
WISHES = Guest(limit=LIMIT, addresses=["198.51.100.9/24"], gateways=["198.51.100.1"], hostname="dr1")


def make_host(tmp_path: Path, wishes: Guest) -> OneScenario:
    folder = tmp_path / "store" / "web"
    folder.mkdir(parents=True)
    image = make_guest(folder / "root.raw", tmp_path)
    vm = Vm(firmware="bios", network=Network(kind="user"), guest=wishes)
    return OneScenario(tmp_path / "store", [image], vm)


def fail_over(host: OneScenario, vm: NullHost):
    return run_failover(host, vm, trigger("me", "a test"), choose_accelerator=lambda _: TCG)


def etc_of(overlay: Path, work: Path):
    flat = work.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(overlay), str(flat)], check=True)
    return look(flat, work)


@pytest.mark.timeout(2 * LIMIT + 100)
def test_from_failover_to_the_way_back(tmp_path):
    host, vm = make_host(tmp_path, WISHES), NullHost()
    before = look(host.images[0], tmp_path / "before")
    progress = fail_over(host, vm)
    overlay = Path(progress.images[0].overlay)

    adapted = etc_of(overlay, tmp_path / "adapted")
    assert json.loads(adapted["rha/substitute"][-1])["scenario"] == "web"
    assert adapted["hostname"][-1] == b"dr1\n"
    assert b"address 198.51.100.9\n" in adapted["network/interfaces"][-1]
    link = adapted["systemd/network/00-rha-substitute.link"][-1].decode()
    spec = vm.specs["rha-web"]
    assert f"MACAddress={spec.network.mac}\nDriver=e1000e\n" in link
    assert (spec.bus, progress.bus_why) == ("sata", "SATA: initrd.img-6.1.0-9 has ahci and sd_mod")
    assert "ifupdown: ens3 gets 198.51.100.9/24, gateway 198.51.100.1" in progress.guest
    (step,) = [step for step in progress.steps if step.name == "adapt-guest"]
    assert "host name web1 becomes dr1" in step.sentence
    assert look(host.images[0], tmp_path / "replica") == before

    disks = [ImageSpec("root", overlay, "qcow2")]
    said = guest.revert(disks, host.folder, tcg=True, limit=LIMIT)
    assert "/etc/rha/substitute is removed" in said
    assert etc_of(overlay, tmp_path / "reverted") == before
    assert guest.revert(disks, host.folder, tcg=True, limit=1) == ["the guest was not changed"]


@pytest.fixture
def broken(monkeypatch):
    """Where libguestfs fails after it has changed something: the overlay is not what it was."""

    def run(disks, request, limit):
        with disks[0].path.open("ab") as file:
            file.write(b"half changed")
        raise VmError("libguestfs failed", cause="for the test")

    monkeypatch.setattr(outside, "run", run)


def test_one_that_cannot_be_adapted_boots_as_it_is_with_a_warning(tmp_path, broken):
    host, vm = make_host(tmp_path, Guest()), NullHost()
    progress = fail_over(host, vm)
    assert progress.guest == [
        "virtio: assumed, as nobody could look into the guest",
        "WARNING: NOT adapted: libguestfs failed: for the test",
    ]
    assert vm.specs["rha-web"].bus == "virtio"
    assert not Path(progress.images[0].overlay).read_bytes().endswith(b"half changed")
    assert not (host.folder / guest.FILE).exists()


def test_one_that_must_be_adapted_is_not_booted(tmp_path, broken):
    host, vm = make_host(tmp_path, msgspec.structs.replace(WISHES, required=True)), NullHost()
    with pytest.raises(VmError, match="libguestfs failed"):
        fail_over(host, vm)
    assert vm.calls == []
    progress = run_failover(host, vm, trigger("me", "a test"), force=True, choose_accelerator=lambda _: TCG)
    assert progress.state == "serving"


def test_discarding_forgets_what_was_there(tmp_path, monkeypatch):
    answer = outside.Answer(bus="virtio", bus_why="why", kept=[], seconds=2, launch_seconds=1)
    monkeypatch.setattr(outside, "run", lambda *_: answer)
    host, vm = make_host(tmp_path, Guest()), NullHost()
    progress = fail_over(host, vm)
    assert progress.guest == ["why", "2 s, 1 s of it to start libguestfs"]
    guest.remember(host.folder, answer)
    discard_substitute(host.folder, vm, "web")
    assert not (host.folder / guest.FILE).exists()
    assert not Path(progress.images[0].overlay).exists()


def test_a_limit_ends_everything_that_was_started(tmp_path, monkeypatch):
    ended, end = list[int](), outside._end
    monkeypatch.setattr(outside, "_end", lambda process: (ended.append(process.pid), end(process)))
    host = make_host(tmp_path, Guest(required=True, limit=1.5))
    with pytest.raises(VmError, match=r"the guest is not adapted after 1\.5 s"):
        fail_over(host, NullHost())
    (group,) = ended
    until = time.monotonic() + 60
    while left := alive(group):
        assert time.monotonic() < until, f"processes {left} go on"
        time.sleep(0.1)


def alive(group: int) -> list[int]:
    """Processes of a group that are no zombies: fields 3 and 5 of /proc/PID/stat, behind the name in brackets."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[2]) == group and words[0] != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Every request to the child, answered as if it had changed one file; a revert has nothing to keep."""
    found = []
    kept = [Kept(path="/etc/hostname", before=None, after=b"dr")]

    def run(_disks, request, _limit):
        found.append(request.act)
        return outside.Answer(kept=kept if request.act == "adapt" else [], said=[request.act])

    monkeypatch.setattr(outside, "run", run)
    guest.remember(tmp_path, outside.Answer(kept=kept))
    return found


def back(folder):
    return guest.revert([], folder, tcg=True, limit=1)


def again(folder):
    host = OneScenario(folder, [folder / "root.raw"], Vm(network=Network(kind="user")))
    return guest.adapt_again(host.scenario, [], folder, tcg=True, limit=1)


def test_a_revert_that_is_taken_back(tmp_path, asked):
    assert back(tmp_path) == ["revert"]
    assert back(tmp_path) == ["the guest was not changed"]
    assert again(tmp_path) == ["adapt"]
    assert asked == ["revert", "adapt"]
    assert guest.recall(tmp_path).kept[0].path == "/etc/hostname"
    assert back(tmp_path) == ["revert"]


def test_a_revert_that_was_cut_off_is_ended_before_it_is_taken_back(tmp_path, asked):
    """Else what was adapted would be kept as what was there before."""
    again(tmp_path)
    assert asked == ["revert", "adapt"]


def test_a_guest_that_was_not_adapted_is_left_alone(tmp_path, asked):
    guest.forget(tmp_path)
    assert back(tmp_path) == again(tmp_path) == ["the guest was not changed"]
    assert asked == []
