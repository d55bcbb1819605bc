"""Can this host be a master? Looks only; loads nothing into the kernel. The probe's own self-test at each start of the
engine is the last word."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

from rha.doctor.check import Check, Finding, module
from rha.units import show_bytes

MIN_KERNEL = (5, 19)  # bpf_ringbuf_reserve_dynptr, Linux commit bc34dee65a65
BTF = Path("/sys/kernel/btf/vmlinux")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
BPFFS = Path("/sys/fs/bpf")
CLOCKSOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
TRACEPOINTS = ("block_bio_queue", "block_bio_remap", "block_rq_complete", "block_bio_complete")
MIN_RING_BYTES = 64 << 20
RING_SHARE = 16  # the default ring is this part of the memory


def checks() -> list[Check]:
    """All checks of the role, in the order in which a person would repair."""
    return [
        root,
        lambda: kernel(os.uname().release),
        lambda: btf(BTF),
        lambda: tracepoints(BTF),
        lambda: lockdown(LOCKDOWN),
        lambda: bpffs(Path("/proc/filesystems"), Path("/proc/mounts")),
        lambda: loop_device(Path("/dev/loop-control")),
        lambda: memory(Path("/proc/meminfo").read_text()),
        lambda: module("bcc", "python3-bpfcc"),
        lambda: clock(CLOCKSOURCE),
    ]


def root() -> Finding:
    """Only root may load a probe and read disks."""
    if os.geteuid() == 0:
        return Finding("root", "ok", "this is root")
    return Finding("root", "fault", f"user {os.geteuid()} cannot load a probe", "sudo rha doctor")


def kernel(release: str) -> Finding:
    """`release` as uname gives it."""
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version >= MIN_KERNEL:
        return Finding("kernel", "ok", release)
    least = ".".join(map(str, MIN_KERNEL))
    return Finding("kernel", "fault", f"{release} is older than {least}", "boot a newer kernel of the distribution")


def btf(path: Path) -> Finding:
    """The kernel's own description of its structures."""
    if path.exists():
        return Finding("BTF", "ok", f"{path}, {show_bytes(path.stat().st_size)}")
    return Finding("BTF", "fault", f"{path} is missing", "boot a kernel with CONFIG_DEBUG_INFO_BTF=y")


def tracepoints(path: Path) -> Finding:
    """Every tracepoint that a BPF program can take has a type `btf_trace_NAME` in the kernel's BTF."""
    if not path.exists():
        return Finding("tracepoints", "fault", "unknown without BTF", "see BTF")
    absent = [name for name in TRACEPOINTS if not _mentions(path, f"btf_trace_{name}")]
    if absent:
        hint = "boot a kernel with CONFIG_BLK_DEV_IO_TRACE=y or CONFIG_TRACEPOINTS=y"
        return Finding("tracepoints", "fault", f"missing: {', '.join(absent)}", hint)
    return Finding("tracepoints", "ok", ", ".join(TRACEPOINTS))


def _mentions(path: Path, name: str) -> bool:
    word = b"\0" + name.encode() + b"\0"  # BTF strings end with zero bytes
    return word in path.read_bytes()


def lockdown(path: Path) -> Finding:
    """The kernel marks the present level with brackets: `none [integrity] confidentiality`."""
    try:
        text = path.read_text()
    except OSError:
        return Finding("lockdown", "ok", "this kernel knows none, or securityfs is not mounted")
    found = re.search(r"\[(\w+)\]", text)
    level = found[1] if found else "unknown"
    if level == "confidentiality":
        hint = "boot without lockdown=confidentiality; integrity (Secure Boot) is fine"
        return Finding("lockdown", "fault", "confidentiality forbids reading kernel memory", hint)
    return Finding("lockdown", "ok", level)


def bpffs(filesystems: Path, mounts: Path) -> Finding:
    """Pins live there: without it tracking would end with the engine."""
    mounted = [line.split()[1] for line in mounts.read_text().splitlines() if line.split()[2] == "bpf"]
    if str(BPFFS) in mounted:
        return Finding("bpffs", "ok", f"mounted on {BPFFS}")
    if re.search(r"\sbpf$", filesystems.read_text(), re.M):
        return Finding("bpffs", "warning", "not mounted", f"mount -t bpf bpf {BPFFS}")
    return Finding("bpffs", "fault", "this kernel has no bpffs", "boot a kernel with CONFIG_BPF_SYSCALL=y")


def loop_device(control: Path) -> Finding:
    """The self-test writes through a scratch device, never to a disk of the host."""
    if control.exists():
        return Finding("loop device", "ok", f"{control} (scratch device of the self-test)")
    return Finding("loop device", "fault", f"{control} is missing; the self-test needs one", "modprobe loop")


def memory(meminfo: str) -> Finding:
    """`meminfo`: text of /proc/meminfo. The ring cannot be swapped out."""
    kib = {match[1]: int(match[2]) for match in re.finditer(r"^(\w+):\s+(\d+) kB$", meminfo, re.M)}
    total, available = kib["MemTotal"] << 10, kib["MemAvailable"] << 10
    ring = max(mmap.PAGESIZE, 1 << ((total // RING_SHARE).bit_length() - 1))
    ring = min(ring, 2 << 30)
    text = f"{show_bytes(available)} available, default ring {show_bytes(ring)}"
    if available < ring:
        return Finding("memory", "fault", text, 'set a smaller one in the scenario: [capture] ring = "32MiB"')
    if ring < MIN_RING_BYTES:
        return Finding("memory", "warning", f"{text}: it fills soon when the link is slow", "add memory")
    return Finding("memory", "ok", text)


def clock(path: Path) -> Finding:
    """Each record carries a time stamp; a clock that is read by a slow device costs on every write."""
    try:
        source = path.read_text().strip()
    except OSError:
        return Finding("clock", "warning", "the clock source is not known", f"cat {path}")
    if source in ("hpet", "acpi_pm"):
        return Finding("clock", "warning", f"{source} is slow to read", "look for 'tsc' in the kernel's log")
    return Finding("clock", "ok", source)
