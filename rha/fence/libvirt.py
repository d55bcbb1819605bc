"""Fencing of a master that is a virtual machine: its hypervisor destroys the domain."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import libvirt

from rha.errors import NetworkError, StateError, VmError
from rha.fence.base import POLL_SECONDS, Fence
from rha.redirect.base import Deadline
from rha.scenario import FenceLibvirt

T = TypeVar("T")
_OFF = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED)


class LibvirtFence(Fence):
    kind = "libvirt"

    def __init__(self, table: FenceLibvirt) -> None:
        self._table, self.limit = table, table.limit

    def describe(self) -> str:
        return f"destroy domain {self._table.domain} at {self._table.uri}"

    def check(self, deadline: Deadline) -> str:
        """Raises NetworkError when the hypervisor does not answer, VmError when it has no such domain."""
        state = self._bounded(lambda domain: domain.state()[0], deadline)
        return f"{self._table.uri} would destroy domain {self._table.domain}, which is {_show(state)}"

    def cut(self, deadline: Deadline) -> str:
        """Destroyed, and asked whether it is off. One that would start again by itself (autostart is only for the
        host's boot; a crashed one may be set to restart) is seen by the second look."""
        state = self._bounded(self._destroy, deadline)
        if state not in _OFF:
            raise StateError(f"domain {self._table.domain} is {_show(state)} after it was destroyed")
        return f"domain {self._table.domain} at {self._table.uri} is off"

    def _destroy(self, domain: Any) -> int:
        if domain.state()[0] not in _OFF:
            with contextlib.suppress(libvirt.libvirtError):  # it may have ended in this moment; the look below decides
                domain.destroy()
        return int(domain.state()[0])

    def _bounded(self, act: Callable[[Any], int], deadline: Deadline) -> int:
        """libvirt has no time limits: the question is put in a thread, and left to itself when time is up."""
        results: list[int] = []
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                with self._domain() as domain:
                    results.append(act(domain))
            except (VmError, NetworkError, libvirt.libvirtError) as error:
                failures.append(error)

        thread = threading.Thread(target=ask, name="fence-libvirt", daemon=True)
        thread.start()
        while thread.is_alive():
            deadline.pause(POLL_SECONDS / 4)
        if failures:
            raise _told(failures[0], self.describe()) from failures[0]
        return results[0]

    @contextlib.contextmanager
    def _domain(self) -> Iterator[Any]:
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # else libvirt prints by itself
        try:
            connection = libvirt.open(self._table.uri)
        except libvirt.libvirtError as error:
            hint = f"virsh -c {self._table.uri} list, as root on this appliance"
            raise NetworkError(
                f"the hypervisor at {self._table.uri} does not answer", cause=str(error), hint=hint
            ) from error
        try:
            yield connection.lookupByName(self._table.domain)
        finally:
            connection.close()


def _told(error: BaseException, what: str) -> BaseException:
    if isinstance(error, libvirt.libvirtError):
        return VmError(f"cannot {what}", cause=str(error), hint="virsh list --all there")
    return error


def _show(state: int) -> str:
    if state in _OFF:
        return "off"
    return "paused" if state == libvirt.VIR_DOMAIN_PAUSED else "running"
