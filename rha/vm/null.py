"""A VM host that runs nothing and remembers what it was told: for tests of everything around it, without root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rha.errors import VmError
from rha.vm import picture
from rha.vm.base import DomainState, VmHost, VmSpec


class NullHost(VmHost):
    """`calls`: every change in order, as `verb name`. `free`: bytes of memory; `agent`: what its guests' agent returns,
    by command."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.free = 1 << 40
        self.agent: dict[str, Any] = {}
        self.specs: dict[str, VmSpec] = {}
        self._states: dict[str, DomainState] = {}

    def prepare(self) -> None:
        pass

    def define(self, spec: VmSpec) -> None:
        if self.state(spec.name) == DomainState.RUNNING:
            raise VmError(f"domain {spec.name} runs already")
        self.calls.append(f"define {spec.name}")
        self.specs[spec.name] = spec
        self._states[spec.name] = DomainState.OFF

    def start(self, name: str) -> None:
        if self.state(name) == DomainState.ABSENT:
            raise VmError(f"domain {name} does not exist")
        if self.state(name) != DomainState.RUNNING:
            self.calls.append(f"start {name}")
            self._states[name] = DomainState.RUNNING

    def state(self, name: str) -> DomainState:
        return self._states.get(name, DomainState.ABSENT)

    def destroy(self, name: str) -> None:
        if self.state(name) == DomainState.RUNNING:
            self.calls.append(f"destroy {name}")
            self._states[name] = DomainState.OFF

    def press_power(self, name: str) -> None:
        if self.state(name) == DomainState.RUNNING:
            self.calls.append(f"press {name}")
            self._states[name] = DomainState.OFF

    def is_going_down(self, name: str) -> bool:
        return False

    def monitor(self, name: str, command: str, /, **arguments: Any) -> Any:
        self.calls.append(f"{command} {name}")
        return {}

    def hand_over(self, name: str, label: str, file: int) -> None:
        self.calls.append(f"getfd {name}")

    def undefine(self, name: str) -> None:
        if self._states.pop(name, None):
            self.calls.append(f"undefine {name}")
            del self.specs[name]

    def owner(self, name: str) -> str | None:
        return self.specs[name].scenario if name in self.specs else None

    def console(self, name: str, *, tail_bytes: int = 2000) -> str:
        return ""

    def is_forward_established(self, name: str, guest_port: int) -> bool:
        return self.state(name) == DomainState.RUNNING

    def screenshot(self, name: str, path: Path) -> None:
        if self.state(name) != DomainState.RUNNING:
            raise VmError(f"domain {name} is {self.state(name)}: it has no screen")
        path.write_bytes(picture.png(1, 1, bytes(3)))

    def ask_agent(self, name: str, command: str, limit: float, **arguments: Any) -> Any:
        if command not in self.agent:
            raise VmError(f"the guest agent of {name} does not answer")
        return self.agent[command]

    def free_memory(self) -> int:
        return self.free
