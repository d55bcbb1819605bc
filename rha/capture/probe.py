"""Compiles the probe, calibrates it, tests it and leaves it pinned. The only file that knows bcc.

Runs as a process of its own (`python -m rha.capture.probe`, specification as JSON on standard input, one JSON line as
answer): the compiler takes 100 MiB that the engine shall not keep, and the engine takes the same path whether the probe
was loaded a second or a month ago.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

import rha
from rha.capture import bpf, btf, calibrate, pins, scratch, selftest, shared
from rha.capture.device import Device, lookup
from rha.capture.ring import Ring
from rha.errors import Exit, HostError, RhaError

STRUCTS = {
    "bio": ("bi_bdev", "bi_opf", "bi_flags", "bi_status", "bi_iter", "bi_io_vec"),
    "bvec_iter": ("bi_sector", "bi_size", "bi_idx", "bi_bvec_done"),
    "block_device": ("bd_disk", "bd_dev"),
    "gendisk": ("major", "first_minor", "part0"),
    "bio_vec": ("bv_page", "bv_len", "bv_offset"),
    "page": (),
    "request": ("q", "cmd_flags", "__sector"),
    "request_queue": ("disk",),
}
OPTIONAL = {"bio": ("bi_crypt_context",)}
OPERATIONS = ("REQ_OP_WRITE", "REQ_OP_DISCARD", "REQ_OP_WRITE_ZEROES", "REQ_OP_SECURE_ERASE", "REQ_OP_ZONE_APPEND")
FLAG_BITS = ("__REQ_FUA", "__REQ_PREFLUSH", "__REQ_NOWAIT", "BIO_TRACE_COMPLETION")
PARTS = ("marks.bpf.c", "flights.bpf.c", "probe.bpf.c")
CONTINUATIONS = ("on_queue_more", "on_queue_mark", "on_queue")  # by index, as in probe.bpf.c
FLIGHTS = 1 << 16  # writes of bio-based disks on their way at once: 80 bytes each
TRIES = 20  # a write takes microseconds, and a page is moved once in a while
LOAD_SECONDS = 300  # 2 s on a server, 10 in an emulated guest, over 120 in one whose host is busy


class Specification(msgspec.Struct, kw_only=True):
    """What to load: scenario name, device paths in the scenario's order, ring size in bytes (a power of two)."""

    scenario: str
    devices: list[str]
    ring_bytes: int


class Outcome(msgspec.Struct, kw_only=True):
    """The loader's answer. `error` and what follows are set iff it failed."""

    seconds: float = 0.0
    self_test_bytes: int = 0
    generation: str = ""
    error: str = ""
    cause: str = ""
    hint: str = ""


def load(specification: Specification) -> Outcome:
    """Runs the loader process. Everything stands pinned afterwards, disks in bitmap mode and not trusted.

    Raises HostError with the loader's own reason.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "rha.capture.probe"],
            input=msgspec.json.encode(specification),
            capture_output=True,
            timeout=LOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError("loading the probe took too long", cause=f"over {LOAD_SECONDS} s", hint="rha doctor") from error
    try:
        outcome = msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome)
    except (IndexError, msgspec.MsgspecError) as error:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise HostError("the probe could not be loaded", cause=" / ".join(last) or f"exit {done.returncode}") from error
    if outcome.error:
        raise HostError(outcome.error, cause=outcome.cause, hint=outcome.hint)
    return outcome


def sources() -> Path:
    """The folder of the probe's sources: beside the package in a checkout, inside it when installed."""
    inside = Path(rha.__file__).parent / "csrc"
    return inside if inside.exists() else Path(rha.__file__).parent.parent / "csrc"


def kernel_flags() -> list[str]:
    """Offsets, sizes and operation numbers of the running kernel, as -D flags.

    Raises HostError when the kernel lacks one.
    """
    found = btf.load(set(STRUCTS), {*OPERATIONS, *FLAG_BITS})
    flags = []
    for name, members in STRUCTS.items():
        flags.append(f"-DSZ_{name}={found.structs[name].size}")
        for member in members:
            if member not in found.structs[name].offsets:
                raise HostError("this kernel's structures are unknown", cause=f"struct {name} has no {member}")
            flags.append(f"-DOFF_{name}_{member}={found.structs[name].offsets[member]}")
        for member in OPTIONAL.get(name, ()):
            if member in found.structs[name].offsets:
                flags.append(f"-DOFF_{name}_{member}={found.structs[name].offsets[member]}")
    for value in (*OPERATIONS, *FLAG_BITS):
        if value not in found.values:
            raise HostError("this kernel's block operations are unknown", cause=f"BTF has no {value}")
        flags.append(f"-D{value.removeprefix('__')}={found.values[value]}")
    return flags


class _Compiler:
    """bcc, told to use our stub headers instead of the kernel's."""

    def __init__(self, flags: list[str]) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(sources() / "kheaders")
        from bcc import BPF  # after the variable: bcc reads it when it is imported

        self._bpf, self._flags = BPF, [*flags, f"-I{sources()}", "-Wno-everything"]

    def compile(self, files: tuple[str, ...], *flags: str) -> Any:
        """One module of several source files: bcc rewrites no map access in an included one."""
        text = "".join(f'#line 1 "{file}"\n{(sources() / file).read_text()}' for file in files)
        try:
            return self._bpf(text=text, cflags=[*self._flags, *flags])
        except Exception as error:  # bcc raises plain Exception for every failure
            raise HostError(f"{files[-1]} does not compile", cause=str(error), hint="rha doctor") from error

    def program(self, module: Any, name: str) -> int:
        try:
            return int(module.load_func(name, self._bpf.RAW_TRACEPOINT).fd)
        except Exception as error:  # as above
            raise HostError(f"the kernel refuses the program {name}", cause=str(error), hint="rha doctor") from error


def find_memory_layout(compiler: _Compiler, path: str, fd: int, tries: int = TRIES) -> tuple[int, int]:
    """Addresses of vmemmap and of the direct map, at the first of some tries in which the page was not moved.

    Raises HostError when they cannot be found.
    """
    module = compiler.compile(("calibrate.bpf.c",))
    page = calibrate.KnownPage()
    module["known"][0], module["known"][2] = ctypes.c_ulong(lookup(path).dev), ctypes.c_ulong(page.magic)
    link = bpf.attach_raw_tracepoint(compiler.program(module, "on_queue"), "block_bio_queue")
    try:
        for _ in range(tries):
            layout, has_moved = _measure(module, page, fd)
            if is_found := bool(all(layout) and not has_moved):
                break
    finally:
        os.close(link)
        module.cleanup()
    if not is_found:
        raise HostError(
            "the payload of writes cannot be read on this kernel",
            cause=f"calibration found vmemmap {layout[0]:#x}, direct map {layout[1]:#x}",
            hint="cat /sys/kernel/security/lockdown: 'confidentiality' forbids it",
        )
    return layout


def _measure(module: Any, page: calibrate.KnownPage, fd: int) -> tuple[tuple[int, int], bool]:
    """What one write of the page shows, and whether the page was somewhere else meanwhile: then that is wrong."""
    frame = page.frame
    module["known"][1] = ctypes.c_ulong(frame)
    for i in range(2):
        module["found"][i] = ctypes.c_ulong(0)
    os.pwritev(fd, [page.buffer], 0)
    vmemmap, direct_map = (int(module["found"][i].value) for i in range(2))
    return (vmemmap, direct_map), page.frame != frame


def _describe(state: Any, devices: list[Device], layout: tuple[int, int], ring_bytes: int, ncpus: int) -> str:
    """Fills the shared state: the disks stand in bitmap mode from the moment the probe is attached."""
    generation = uuid.uuid4()
    state["layout"], state["ndisks"] = shared.LAYOUT, len(devices)
    state["generation"] = list(generation.bytes)
    state["vmemmap"], state["direct_map"] = layout
    state["ring_bytes"], state["ncpus"] = ring_bytes, ncpus
    state["bio_based"] = any(device.is_bio_based for device in devices)
    word = 0
    for i, device in enumerate(devices):
        disk = state["disk"][i]
        disk["dev"], disk["start"], disk["sectors"] = device.dev, device.start, device.sectors
        disk["diskseq"], disk["mode"] = device.diskseq, shared.MODE_BITMAP
        disk["bitmap_word"], disk["bitmap_words"] = word, shared.words_reserved(device.bytes)
        disk["bio_based"] = device.is_bio_based
        word += shared.words_reserved(device.bytes)
    return generation.hex


def _self_test(state: Any, counters: Any, ring: Ring, path: str, fd: int, layout: tuple[int, int]) -> int:
    """The real program, the real ring, a scratch device in the last slot."""
    slot = state["disk"][shared.MAX_DISKS - 1]
    state["vmemmap"], state["direct_map"] = layout
    device = lookup(path)
    slot["dev"], slot["start"], slot["sectors"] = device.dev, 0, device.sectors
    slot["mode"] = shared.MODE_DATA
    try:
        return selftest.run(fd, ring)
    finally:
        slot["dev"] = slot["sectors"] = slot["mode"] = 0
        counters[:] = 0
        ring.release(ring.producer)


def _load(specification: Specification) -> Outcome:
    begin = time.monotonic()
    bpf.ensure_bpffs()
    devices = [lookup(path) for path in specification.devices]
    words = sum(shared.words_reserved(device.bytes) for device in devices)
    ncpus = os.sysconf("SC_NPROCESSORS_CONF")
    compiler = _Compiler(kernel_flags())
    module = compiler.compile(
        PARTS,
        f"-DRING_PAGES={specification.ring_bytes // 4096}",
        f"-DNCPUS={ncpus}",
        f"-DBITMAP_WORDS={words}",
        f"-DFLIGHTS={FLIGHTS if any(device.is_bio_based for device in devices) else 1}",
    )
    descriptors = {name: module[name].map_fd for name in pins.MAPS}
    descriptors |= {name: compiler.program(module, name) for name in pins.PROGRAMS}
    for i, name in enumerate(CONTINUATIONS):
        module["continuation"][i] = ctypes.c_int(compiler.program(module, name))
    state = shared.view(descriptors["state"], shared.STATE, 1)[0]
    counters = shared.view(descriptors["counters"], shared.COUNTERS, ncpus * shared.MAX_DISKS)
    ring = Ring(descriptors["ring"], specification.ring_bytes)
    with scratch.device() as (path, fd):
        layout = find_memory_layout(compiler, path, fd)
        link = bpf.attach_raw_tracepoint(descriptors["on_queue"], "block_bio_queue")
        try:
            tested = _self_test(state, counters, ring, path, fd, layout)
        finally:
            os.close(link)
    generation = _describe(state, devices, layout, specification.ring_bytes, ncpus)
    for name, (program, tracepoint) in pins.LINKS.items():
        descriptors[name] = bpf.attach_raw_tracepoint(descriptors[program], tracepoint)
    for disk in state["disk"][: len(devices)]:  # a write on its way until now began unseen
        disk["unsettled_ns"] = time.monotonic_ns() if disk["bio_based"] else 0
    pins.remove(specification.scenario)
    pins.write(specification.scenario, descriptors)
    return Outcome(seconds=time.monotonic() - begin, self_test_bytes=tested, generation=generation)


def main() -> int:
    """The loader process: always one JSON line on standard output."""
    specification = msgspec.json.decode(sys.stdin.buffer.read(), type=Specification)
    try:
        outcome = _load(specification)
    except RhaError as error:
        outcome = Outcome(error=error.what, cause=error.cause, hint=error.hint)
    except OSError as error:
        outcome = Outcome(error="the probe could not be loaded", cause=str(error), hint="rha doctor")
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    return int(Exit.HOST) if outcome.error else 0


if __name__ == "__main__":
    sys.exit(main())
