"""One scenario's side of an appliance, for test boots: files for disks, and a VM host that runs nothing."""

from __future__ import annotations

from pathlib import Path

from rha.errors import StateError, VmError
from rha.report import Point
from rha.scenario import Appliance, BootCheck, BootTest, Disk, Duration, Guest, Scenario, Vm
from rha.switch.bootsteps import BootDisks
from rha.switch.lag import Behind
from rha.vm.base import DomainState, VmSpec
from rha.vm.null import NullHost


class BootSite:
    """Satisfies BootHost. `calls` in order; a verb in `broken` raises."""

    def __init__(self, store: Path, test: BootTest) -> None:
        self.store, self.folder, self.scripts = store, store / "web", store / "scripts"
        self.folder.mkdir()
        self.calls, self.broken = list[str](), set[str]()
        self.switched: str | None = None
        self.lsn = 0
        self.scenario = Scenario(
            name="web",
            disk=[Disk(name="root", device="/dev/vda"), Disk(name="data", device="/dev/vdb")],
            appliance=Appliance(address="a:1", ca="/a", certificate="/b", key="/c"),
            vm=Vm(firmware="bios", guest=Guest(adapt="no")),
            test=test,
        )

    def _called(self, verb: str) -> None:
        self.calls.append(verb)
        if verb in self.broken:
            raise StateError(f"{verb} broke")

    def why_switched(self) -> str | None:
        return self.switched

    def find_point(self, at: str) -> None:
        if "find_point" in self.broken:
            raise StateError("find_point broke")

    def open_point(self, at: str) -> BootDisks:
        self._called("open_point")
        files = [self.folder / "root.raw", self.folder / "data.raw"]
        for file in files:
            file.write_bytes(bytes(512))
        return BootDisks(Point(lsn=4096, time=1000.0), [(file, file.with_suffix(".qcow2")) for file in files])

    def close_point(self) -> None:
        self._called("close_point")

    def behind(self) -> Behind:
        self.lsn += 10
        return Behind(0, 0.5, self.lsn)


class TalkingHost(NullHost):
    """Its guests say something on their console. `down`: it does not answer."""

    def __init__(self, says: str = "login:") -> None:
        super().__init__()
        self.says = says
        self.down = False

    def define(self, spec: VmSpec) -> None:
        assert spec.isolated
        self.last = spec
        super().define(spec)

    def console(self, name: str, *, tail_bytes: int = 2000) -> str:
        return self.says

    def state(self, name: str) -> DomainState:
        if self.down:
            raise VmError("libvirt does not answer")
        return super().state(name)

    def owner(self, name: str) -> str | None:
        self.state(name)
        return super().owner(name)


def console_check(pattern: str = "login:", within: float = 5.0) -> BootCheck:
    return BootCheck(kind="console", address=pattern, within=Duration(within))
