"""A VM host that runs nothing and remembers what it was told: for tests of everything around it, without root."""

from __future__ import annotations

from typing import Any

from rha.errors import VmError
from rha.vm.base import DomainState, VmHost, VmSpec


class NullHost(VmHost):
    """`calls`: every change in order, as `verb name`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.specs: dict[str, VmSpec] = {}
        self._states: dict[str, DomainState] = {}

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
