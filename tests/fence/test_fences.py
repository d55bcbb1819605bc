"""Fences against what they cut off: a management controller (openipmi's simulator), libvirt's own test hypervisor and
QEMU, real programs."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rha.errors import ConfigError, NetworkError, RhaError, StateError, VmError
from rha.fence.base import FencePlace
from rha.fence.ipmi import IpmiFence
from rha.fence.libvirt import LibvirtFence
from rha.fence.script import ScriptFence
from rha.scenario import Duration, FenceIpmi, FenceLibvirt, FenceScript
from tests.redirect.wires import eventually

pytestmark = pytest.mark.root
LAN = """\
name "master"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin md5
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{folder}/chassis"
  user 2 true "rha" "secret" admin 10 md5
"""
COMMANDS = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""
CHASSIS = """\
#!/bin/bash
# The machine below the controller: its power is a file. One that is stuck does what it is told and stays on.
[ "$1" = get ] && echo "$2:$(cat {folder}/power)"
[ "$1" = set ] && [ ! -e {folder}/stuck ] && echo "$3" > {folder}/power
exit 0
"""


class Controller:
    def __init__(self, folder: Path) -> None:
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        for name, text in (("lan", LAN), ("commands", COMMANDS), ("chassis", CHASSIS), ("power", "1\n")):
            (folder / name).write_text(text.format(folder=folder, port=self.port))
        (folder / "chassis").chmod(0o755)
        self.password = folder / "password"
        self.password.write_text("secret\n")
        self.password.chmod(0o600)
        words = ["ipmi_sim", "-c", folder / "lan", "-f", folder / "commands", "-s", folder / "state", "-n"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._answers, 20)

    def _answers(self) -> bool:
        with contextlib.suppress(RhaError):
            return bool(self.fence().do("check"))
        return False

    @property
    def power(self) -> str:
        return (self.folder / "power").read_text().strip()

    def fence(self, limit: float = 8.0, **words: object) -> IpmiFence:
        table = {
            "address": f"127.0.0.1:{self.port}", "user": "rha", "password": str(self.password), "cipher": 3,
            "limit": Duration(limit), **words,
        }  # fmt: skip
        return IpmiFence(FenceIpmi(**table))  # type: ignore[arg-type]


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    if not (shutil.which("ipmi_sim") and shutil.which("ipmitool")):
        pytest.skip("no ipmi_sim, or no ipmitool")
    controller = Controller(tmp_path / "bmc")
    yield controller
    controller.process.kill()
    controller.process.wait()


def test_ipmi_switches_off_and_asks(controller: Controller) -> None:
    fence = controller.fence()
    assert fence.do("check") == f"the controller at 127.0.0.1:{controller.port} answers: the power is on"
    assert controller.power == "1"
    assert fence.do("cut") == f"the controller at 127.0.0.1:{controller.port} says that the power is off"
    assert controller.power == "0"
    assert fence.do("cut").endswith("says that the power is off")


def test_ipmi_that_stays_on_is_a_failure(controller: Controller) -> None:
    (controller.folder / "stuck").touch()
    with pytest.raises((StateError, NetworkError)):
        controller.fence(limit=3.0).do("cut")
    assert controller.power == "1"


def test_ipmi_with_a_wrong_password(controller: Controller) -> None:
    controller.password.write_text("wrong\n")
    with pytest.raises(NetworkError, match=r"refuses|does not answer in time"):
        controller.fence().do("cut")
    assert controller.power == "1"


def test_ipmi_without_a_controller(controller: Controller) -> None:
    controller.process.kill()
    controller.process.wait()
    with pytest.raises(NetworkError):
        controller.fence(limit=3.0).do("cut")


def test_ipmi_password_that_others_can_read(controller: Controller) -> None:
    controller.password.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        controller.fence().do("check")


# libvirt ------------------------------------------------------------------------------------------------------


def test_libvirt_destroys_and_asks(tmp_path: Path) -> None:
    """libvirt's test hypervisor from a file: its domain runs; each connection begins anew."""
    node = tmp_path / "node.xml"
    node.write_text(
        "<node><domain type='test'><name>web</name><memory>8192</memory><os><type>hvm</type></os></domain></node>"
    )
    fence = LibvirtFence(FenceLibvirt(uri=f"test://{node}", domain="web", limit=Duration(10)))
    assert fence.do("check") == f"test://{node} would destroy domain web, which is running"
    assert fence.do("cut") == f"domain web at test://{node} is off"


def test_libvirt_without_that_domain() -> None:
    with pytest.raises(VmError, match="cannot destroy domain none at test:///default"):
        LibvirtFence(FenceLibvirt(uri="test:///default", domain="none", limit=Duration(10))).do("cut")


def test_libvirt_that_does_not_answer(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    with pytest.raises(NetworkError, match="does not answer"):
        LibvirtFence(FenceLibvirt(uri=uri, domain="web", limit=Duration(10))).do("cut")


def test_libvirt_that_hangs(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        server.listen()
        uri = f"qemu+unix:///system?socket={tmp_path}/sock"
        begun = time.monotonic()
        with pytest.raises(StateError, match=r"not done within 0\.5 s"):
            LibvirtFence(FenceLibvirt(uri=uri, domain="web", limit=Duration(0.5))).do("cut")
        assert time.monotonic() - begun < 5


# Scripts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], ScriptFence]:
    folder = tmp_path / "scripts"
    folder.mkdir(mode=0o755)

    def make(text: str) -> ScriptFence:
        (folder / "cut").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "cut").chmod(0o755)
        place = FencePlace("web", tmp_path / "logs", folder)
        return ScriptFence(FenceScript(run="cut", limit=Duration(0.5)), place, 0)

    return make


def test_script_says_what_it_is_asked(script: Callable[[str], ScriptFence], tmp_path: Path) -> None:
    one = script('echo "$RHA_ACT $RHA_SCENARIO $RHA_LIMIT"')
    assert one.do("check").startswith("cut could cut the master off (")
    assert (tmp_path / "logs" / "0-fence.log").read_text() == "check web 0.5\n"
    assert one.do("cut").startswith("cut has cut the master off (")


@pytest.mark.parametrize(
    ("text", "what"), [("echo no; exit 1", r"failed \(exit code 1\)"), ("sleep 60", "ran longer than 0.5 s")]
)
def test_script_without_certainty(script: Callable[[str], ScriptFence], text: str, what: str) -> None:
    with pytest.raises(StateError, match=what):
        script(text).do("cut")
