"""Substitute VMs under libvirt (QEMU)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from rha.errors import VmError
from rha.vm import picture
from rha.vm.access import let_in
from rha.vm.base import DomainState, InCeph, VmHost, VmSpec
from rha.vm.domain_xml import console_of, domain_xml, owner_of, secret_id, secret_xml, secrets_of

URI = "qemu:///system"
# (code, template of the variables); the 4 MiB build first: newer guests' variables do not fit into the other
_FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.RUNNING,  # still on its way down
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}


def _keep_quiet(_context: object, _error: object) -> None:
    """libvirt prints every error to stderr by itself; ours travel as VmError."""


libvirt.registerErrorHandler(_keep_quiet, None)


@contextlib.contextmanager
def _told(what: str, hint: str = "") -> Iterator[None]:
    """libvirt's errors as VmError."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise VmError(what, cause=str(error), hint=hint) from error


class LibvirtHost(VmHost):
    """One libvirt daemon. The connection is made at the first use and again when it has broken."""

    def __init__(self, uri: str = URI) -> None:
        self.uri = uri
        self._connection: Any = None

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(libvirt.libvirtError):  # it is broken already
                self._connection.close()
            self._connection = None

    def prepare(self) -> None:
        """libvirt runs every QEMU that is installed to see what it can, once after each update of QEMU, libvirt or
        kernel: 8 s on a busy host. An open connection keeps a daemon that systemd would end when it is idle."""
        self._vm_user()

    def define(self, spec: VmSpec) -> None:
        self._check_name_is_free(spec)
        uid, gid = self._vm_user()
        for folder in {spec.folder, *(path.parent for path in (*spec.disks, *spec.backing))}:
            let_in(folder, spec.store, uid, gid)
        code, variables = _find_firmware() if spec.firmware == "uefi" else (None, None)
        xml = domain_xml(spec, firmware_code=code, firmware_variables=variables)
        with self._keys_kept(spec), _told(f"domain {spec.name} cannot be defined"):
            self._connected().defineXML(xml)

    @contextlib.contextmanager
    def _keys_kept(self, spec: VmSpec) -> Iterator[None]:
        """The keys for images in Ceph are libvirt's for as long as the domain is defined: not at all when it is not."""
        kept = []
        try:
            for below in spec.in_ceph.values():
                if below.key:
                    kept.append(secret_id(spec.name, below.name))
                    self._keep_key(spec.name, below)
            yield
        except VmError:
            for secret in kept:
                self._forget_key(secret)
            raise

    def _keep_key(self, domain: str, below: InCeph) -> None:
        with _told(f"libvirt does not keep the key of client.{below.user}", "virsh secret-list"):
            secret = self._connected().secretDefineXML(secret_xml(domain, below.name))
            secret.setValue(base64.b64decode(below.key))

    def _check_name_is_free(self, spec: VmSpec) -> None:
        if self.state(spec.name) == DomainState.ABSENT:
            return
        owner = self.owner(spec.name)
        if owner != spec.scenario:
            raise VmError(
                f"a domain {spec.name} exists and is not ours",
                cause=f"it belongs to scenario {owner}" if owner else "it carries no mark of a substitute VM",
                hint=f"virsh dumpxml {spec.name}; rename it with virsh domrename",
            )
        if self.state(spec.name) not in (DomainState.OFF, DomainState.CRASHED):
            raise VmError(f"domain {spec.name} runs already", hint=f"virsh domstate --reason {spec.name}")
        self.undefine(spec.name)

    def start(self, name: str) -> None:
        if self.state(name) in (DomainState.RUNNING, DomainState.PAUSED):
            return
        with _told(f"domain {name} cannot be started", f"virsh start {name}; journalctl -u libvirtd"):
            self._domain(name).create()

    def state(self, name: str) -> DomainState:
        domain = self._look_up(name)
        if domain is None:
            return DomainState.ABSENT
        with _told(f"domain {name} cannot be asked for its state"):
            return _STATES.get(domain.state()[0], DomainState.OFF)

    def destroy(self, name: str) -> None:
        domain = self._look_up(name)
        if domain is None:
            return
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # it is off
                raise VmError(f"domain {name} cannot be stopped", cause=str(error)) from error

    def press_power(self, name: str) -> None:
        domain = self._look_up(name)
        if domain is None:
            return
        try:
            domain.shutdown()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # it is off
                raise VmError(f"domain {name} cannot be asked to shut down", cause=str(error)) from error

    def is_going_down(self, name: str) -> bool:
        domain = self._look_up(name)
        if domain is None:
            return False
        with _told(f"domain {name} cannot be asked for its state"):
            return bool(domain.state()[0] == libvirt.VIR_DOMAIN_SHUTDOWN)

    def monitor(self, name: str, command: str, /, **arguments: Any) -> Any:
        text = json.dumps({"execute": command, "arguments": arguments})
        with _told(f"domain {name} does not take {command}"):
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(self._domain(name), text, 0))
        return _value(name, command, answer)

    def hand_over(self, name: str, label: str, file: int) -> None:
        text = json.dumps({"execute": "getfd", "arguments": {"fdname": label}})
        with _told(f"domain {name} takes no file", "libvirt 8.2 or newer is needed"):
            answer, _ = libvirt_qemu.qemuMonitorCommandWithFiles(self._domain(name), text, [file], 0)
        _value(name, "getfd", json.loads(answer))

    def undefine(self, name: str) -> None:
        domain = self._look_up(name)
        if domain is not None:
            secrets = secrets_of(self._xml(domain))
            with _told(f"domain {name} cannot be undefined"):
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
            for secret in secrets:
                self._forget_key(secret)

    def _forget_key(self, uuid: str) -> None:
        try:
            self._connected().secretLookupByUUIDString(uuid).undefine()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
                raise VmError(f"libvirt does not forget secret {uuid}", cause=str(error)) from error

    def owner(self, name: str) -> str | None:
        domain = self._look_up(name)
        return None if domain is None else owner_of(self._xml(domain))

    def console(self, name: str, *, tail_bytes: int = 2000) -> str:
        path = console_of(self._xml(self._domain(name)))
        if path is None or not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - tail_bytes))
            return file.read().decode(errors="replace")

    def is_forward_established(self, name: str, guest_port: int) -> bool:
        with _told(f"domain {name} cannot be asked for its network"):
            flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            text = libvirt_qemu.qemuMonitorCommand(self._domain(name), "info usernet", flags)
        return has_established(text, guest_port)

    def screenshot(self, name: str, path: Path) -> None:
        content = bytearray()
        with _told(f"domain {name} gives no picture of its screen"):
            stream = self._connected().newStream(0)
            self._domain(name).screenshot(stream, 0)
            stream.recvAll(lambda _stream, data, _opaque: content.extend(data), None)
            stream.finish()
        try:
            path.write_bytes(picture.as_png(bytes(content)))
        except OSError as error:
            raise VmError(f"{path} cannot be written", cause=str(error), hint=f"df -h {path.parent}") from error

    def ask_agent(self, name: str, command: str, limit: float, **arguments: Any) -> Any:
        words = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        hint = "apt install qemu-guest-agent, in the guest"
        with _told(f"the guest agent of {name} does not answer {command}", hint):
            text = libvirt_qemu.qemuAgentCommand(self._domain(name), words, max(1, int(limit)), 0)
        return json.loads(text)["return"]

    def free_memory(self) -> int:
        """The kernel's own estimate (MemAvailable, proc(5)): libvirt counts only what nobody uses, without caches."""
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) << 10

    def _vm_user(self) -> tuple[int, int]:
        """uid and gid that QEMU runs as: libvirt's own word, `+UID:+GID`. Without its DAC driver: as libvirt itself."""
        with _told("libvirt cannot be asked for its capabilities"):
            text = self._connected().getCapabilities()
        for model in ET.fromstring(text).iterfind("host/secmodel"):
            label = model.findtext("baselabel[@type='qemu']", "")
            if model.findtext("model") == "dac" and label:
                uid, gid = (int(part.lstrip("+")) for part in label.split(":"))
                return uid, gid
        return 0, 0

    def _connected(self) -> Any:
        if self._connection is not None and not self._is_alive():
            self.close()
        if self._connection is None:
            hint = "systemctl start libvirtd (apt install libvirt-daemon-system)"
            with _told(f"libvirt does not answer on {self.uri}", hint):
                self._connection = libvirt.open(self.uri)
        return self._connection

    def _is_alive(self) -> bool:
        try:
            return bool(self._connection.isAlive())
        except libvirt.libvirtError:
            return False

    def _look_up(self, name: str) -> Any:
        """The domain; None when there is none."""
        connection = self._connected()
        try:
            return connection.lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise VmError(f"domain {name} cannot be looked up", cause=str(error)) from error

    def _domain(self, name: str) -> Any:
        domain = self._look_up(name)
        if domain is None:
            raise VmError(f"domain {name} does not exist", hint="virsh list --all")
        return domain

    def _xml(self, domain: Any) -> str:
        with _told("a domain's description cannot be read"):
            return str(domain.XMLDesc())


def _value(name: str, command: str, answer: dict[str, Any]) -> Any:
    """The return value of a QMP command. Raises VmError when it was refused."""
    if "error" in answer:
        raise VmError(f"domain {name} refused {command}", cause=answer["error"]["desc"])
    return answer["return"]


def _find_firmware() -> tuple[Path, Path]:
    for code, variables in _FIRMWARE:
        if Path(code).exists() and Path(variables).exists():
            return Path(code), Path(variables)
    raise VmError(
        "no UEFI firmware for the substitute VM",
        cause="not found: " + ", ".join(code for code, _ in _FIRMWARE),
        hint="apt install ovmf",
    )


def has_established(usernet: str, guest_port: int) -> bool:
    """Does QEMU's `info usernet` show a connection from outside, established with that port of the guest?

    Lines: `TCP[ESTABLISHED]  FD  SOURCE PORT  DESTINATION PORT  RECV-Q SEND-Q`.
    """
    rows = (line.split() for line in usernet.splitlines())
    return any(len(row) >= 6 and row[0] == "TCP[ESTABLISHED]" and str(guest_port) in (row[3], row[5]) for row in rows)
