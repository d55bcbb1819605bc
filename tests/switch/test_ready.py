"""What is said of a substitute that does not come so far as to serve."""

from __future__ import annotations

import pytest

from rha.errors import VmError
from rha.scenario import Check, Network
from rha.switch.ready import wait_ready
from rha.vm.base import DomainState
from rha.vm.null import NullHost


class Stopped(NullHost):
    def state(self, name: str) -> DomainState:
        return DomainState.PAUSED

    def console(self, name: str) -> str:
        return "Freeing unused kernel memory\n"


def test_a_guest_that_was_stopped_for_a_full_disk() -> None:
    check = Check(kind="tcp", address="127.0.0.1:9")
    with pytest.raises(VmError, match="is paused before it served") as told:
        wait_ready(check, Stopped(), "rha-web1", Network(), 30)
    assert "Freeing unused" in told.value.cause
    assert "df -h" in told.value.hint
    assert "virsh domstate --reason rha-web1" in told.value.hint
