"""What a substitute's screen shows is kept, whether it serves or not."""

from __future__ import annotations

import shutil
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from rha.errors import VmError
from rha.image import formats
from rha.scenario import Check, Duration, Forward, Network, Vm
from rha.switch import progress as ledger
from rha.switch.failover import run_failover
from rha.switch.plan import StepName
from rha.switch.progress import Trigger
from rha.vm.accelerator import Accelerator
from rha.vm.null import NullHost
from tests.switch.one_scenario import OneScenario
from tests.vm.png import read_png

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
CAUSE = Trigger(by="appliance", reason="silent", decided=2010.0)


class Guest(NullHost):
    def __init__(self, *, answers: bool, has_screen: bool = True) -> None:
        super().__init__()
        self.answers, self._has_screen = answers, has_screen

    def is_forward_established(self, name: str, guest_port: int) -> bool:
        return self.answers

    def screenshot(self, name: str, path: Path) -> None:
        if not self._has_screen:
            raise VmError("it has no screen")
        super().screenshot(name, path)


def fail_over(store: Path, guest: Guest) -> tuple[Path, str]:
    """The scenario's folder, and the sentence of its step."""
    (store / "web").mkdir()
    formats.create(store / "web" / "root.qcow2", 1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ready = Check(kind="tcp", address=f"127.0.0.1:{port}", timeout=Duration(0.1))
        network = Network(kind="user", forward=[Forward(host_port=port, guest_port=22)])
        vm = Vm(firmware="bios", bus="virtio", ready=ready, ready_timeout=Duration(0.3), network=network)
        host = OneScenario(store, [store / "web" / "root.qcow2"], vm)
        with pytest.raises(VmError, match="does not serve") if not guest.answers else nullcontext():
            run_failover(host, guest, CAUSE, choose_accelerator=lambda _: Accelerator("tcg", "tried"))
    past = ledger.load(host.folder)
    assert past is not None
    return host.folder, next(step.sentence for step in past.steps if step.name == StepName.WAIT_READY)


@pytest.mark.parametrize("answers", [True, False])
def test_the_screen_is_kept(tmp_path: Path, answers: bool) -> None:
    folder, sentence = fail_over(tmp_path, Guest(answers=answers))
    assert sentence.endswith("answers; screen: screen.png")
    assert read_png((folder / "screen.png").read_bytes())[:2] == (1, 1)


def test_without_a_picture_it_serves_all_the_same(tmp_path: Path) -> None:
    folder, sentence = fail_over(tmp_path, Guest(answers=True, has_screen=False))
    assert sentence.endswith("; screen: no picture: it has no screen")
    assert not (folder / "screen.png").exists()
