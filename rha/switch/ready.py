"""Waits until the substitute serves: its check answers, and it is really the guest who answers."""

from __future__ import annotations

import time
from pathlib import Path

from rha.errors import VmError
from rha.scenario import Check, Forward, Network
from rha.units import show_seconds
from rha.vm.base import DomainState, VmHost
from rha.watch import tcp
from rha.watch.ask import KINDS
from rha.watch.base import NoAnswer

POLL_SECONDS = 0.2
CONSOLE_LINES = 3
# QEMU stops a guest whose write finds no room, instead of failing it.
_WHY_PAUSED = "virsh domstate --reason {name}; an I/O error is a full disk below its overlays: df -h"


def forward_of(check: Check, network: Network) -> Forward | None:
    """The user-mode forward that a TCP check goes through; None when it goes straight to the guest."""
    if check.kind != "tcp" or network.kind != "user":
        return None
    try:
        _, port = tcp.split_address(check.address)
    except NoAnswer:
        return None  # asking it says so
    return next((forward for forward in network.forward if forward.host_port == port), None)


def wait_ready(check: Check, vm: VmHost, name: str, network: Network, limit: float) -> float:
    """Asks about five times a second; returns the seconds it took.

    Raises VmError when the domain stops, or nobody has answered after `limit` seconds; its cause is what the guest said
    last on its console.
    """
    begun, why = time.monotonic(), "not asked"
    forward = forward_of(check, network)
    while (seconds := time.monotonic() - begun) < limit:
        state = vm.state(name)
        if state != DomainState.RUNNING:
            hint = _WHY_PAUSED.format(name=name) if state == DomainState.PAUSED else ""
            raise VmError(f"domain {name} is {state} before it served", cause=last_words(vm, name), hint=hint)
        try:
            if forward:
                ask_through(forward, check.timeout, vm, name)
            else:
                KINDS[check.kind](check, min(check.timeout, limit))
            return time.monotonic() - begun
        except NoAnswer as error:
            why = str(error)
        time.sleep(POLL_SECONDS)
    raise VmError(
        f"the substitute VM does not serve: {check.kind} {check.address}: {why}, for {show_seconds(seconds)}",
        cause=last_words(vm, name),
        hint=f"virsh console {name}; vm.ready and vm.ready_timeout in the scenario",
    )


def ask_through(forward: Forward, timeout: float, vm: VmHost, name: str) -> None:
    """The host's end of a forward accepts at once; so the connection is held open until the guest has established it.

    Raises NoAnswer.
    """
    with tcp.connect(f"{forward.host}:{forward.host_port}", timeout):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if vm.is_forward_established(name, forward.guest_port):
                return
            time.sleep(POLL_SECONDS)
    raise NoAnswer(f"the guest does not accept connections on port {forward.guest_port}")


def keep_picture(vm: VmHost, name: str, path: Path) -> str:
    """Of a domain's screen: the file's name, or why there is none."""
    try:
        vm.screenshot(name, path)
    except VmError as error:
        return f"no picture: {error.what}"
    return path.name


def last_words(vm: VmHost, name: str) -> str:
    lines = [line.strip() for line in vm.console(name).splitlines() if line.strip()]
    return "console: " + " | ".join(lines[-CONSOLE_LINES:]) if lines else "its serial console said nothing"
