"""Which accelerator runs a guest here: tried, not assumed.

`/dev/kvm` may exist and still not run a stock kernel. Where the host is a guest without hardware virtualisation, kvm
may be there in software that steps through long mode one instruction at a time: firmware and boot loader work, the
kernel seems to hang. So a boot sector is run (trial.S) that goes through real, protected and long mode, takes timer
interrupts and then counts: 2^27 rounds take a CPU a fraction of a second (TCG: 0.6 s) and minutes there.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rha.decoding import from_json
from rha.errors import VmError
from rha.units import show_seconds
from rha.vm.base import AcceleratorName

KVM = Path("/dev/kvm")
CACHE = Path("/run/rha/accelerator.json")
LIMIT_SECONDS = 8.0  # SeaBIOS takes 0.3 s on a working kvm, 3 s on the one described above
QEMU = "qemu-system-x86_64"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STAGES = {"": "firmware", "R": "real mode", "P": "protected mode", "L": "long mode"}
_PASSED = "RPLT"
_finding_out = threading.Lock()  # one trial at a time: the other wants the same answer

_CODE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cbaf803b052eee4920c02e692bf0010b9001831c0fcf3ab66c70600100320000066c7060020033000"
    "0066c7060030830000000f0116407d0f20c00c010f22c0ea507c080066b810008ed88ec08ed0bc007c000066baf803b050ee0f20"
    "e00c200f22e0b8001000000f22d8b9800000c00f320d000100000f300f20c00d000000800f22c0ea967c0000180066baf803b04c"
    "eebf0050000031c0b900040000f3abbf00520000b8167d18008907c74704008e00000f011c25467d0000b011e620e6a0b020e621"
    "b028e6a1b004e621b002e6a1b001e621e6a1b0ffe6a1b0fee621b034e643b09ce640b02ee64031dbfbf483fb0572fa66baf803b9"
    "00000008ffc975fcb054eeb00aeefaf4ebfdffc3b020e62048cf66900000000000000000ffff0000009acf00ffff00000092cf00"
    "ffff0000009aaf001f00207d0000ff030050"
)
TRIAL_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"


class Accelerator(msgspec.Struct, frozen=True):
    """The choice and the sentence that says why."""

    name: AcceleratorName
    why: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Trial:
    """`output`: what the boot sector printed; `error`: what QEMU said when it ended by itself."""

    output: str
    seconds: float
    error: str = ""

    @property
    def passed(self) -> bool:
        return self.output.strip() == _PASSED

    def sentence(self, name: str) -> str:
        """`kvm hangs: nothing after long mode within 8 s`."""
        if self.passed:
            return f"{name} ran a long-mode guest in {show_seconds(self.seconds)}"
        if self.error:
            return f"{name} does not start: {self.error}"
        reached = _STAGES.get(self.output.strip()[-1:], "an unknown stage")
        return f"{name} hangs: nothing after {reached} within {show_seconds(self.seconds)}"


class _Remembered(msgspec.Struct):
    """The answer of one boot: the next kernel, or machine, may do better."""

    boot_id: str
    accelerator: Accelerator


def choose(wanted: str = "auto", *, cache: Path = CACHE, device: Path = KVM) -> Accelerator:
    """The accelerator for a substitute VM. `wanted`: auto, kvm or tcg. Takes up to 8 s at the first call after a boot.

    Raises VmError when kvm is demanded and does not run a guest, or QEMU is missing.
    """
    if wanted == "tcg":
        return Accelerator("tcg", "the scenario asks for tcg")
    with _finding_out:
        found = _recall(cache)
        if found is None:
            found = _find_out(device)
            _remember(cache, found)
    if wanted == "kvm" and found.name != "kvm":
        raise VmError("kvm runs no guest here", cause=found.why, hint='vm.accelerator = "auto" falls back to tcg')
    return found


def _find_out(device: Path) -> Accelerator:
    if not device.exists():
        return Accelerator("tcg", f"{device} does not exist")
    trial = try_out("kvm")
    return Accelerator("kvm" if trial.passed else "tcg", trial.sentence("kvm"))


def try_out(name: AcceleratorName, *, limit: float = LIMIT_SECONDS) -> Trial:
    """Runs the trial; never longer than `limit` plus the killing of its own QEMU.

    Raises VmError when QEMU is missing.
    """
    if shutil.which(QEMU) is None:
        raise VmError(f"{QEMU} is missing", hint="apt install qemu-system-x86")
    with tempfile.TemporaryDirectory(prefix="rha-trial-") as folder:
        disk, serial = Path(folder, "disk"), Path(folder, "serial")
        disk.write_bytes(TRIAL_SECTOR)
        serial.touch()
        return _watch(_command(name, disk, serial), serial, limit)


def _command(name: str, disk: Path, serial: Path) -> list[str]:
    # A hung guest spins for ever: it must not outlive us, however we end.
    program = ["setpriv", "--pdeathsig", "KILL", QEMU]
    quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    drive = f"file={disk},format=raw,if=ide,readonly=off"
    return [*program, "-M", "pc", "-accel", name, "-m", "64", *quiet, "-serial", f"file:{serial}", "-drive", drive]


def _watch(command: Sequence[str], serial: Path, limit: float) -> Trial:
    begun = time.monotonic()
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise VmError("setpriv is missing", cause=str(error), hint="apt install util-linux") from error
    try:
        while (seconds := time.monotonic() - begun) < limit and process.poll() is None:
            if serial.read_text(errors="replace").strip() == _PASSED:
                break
            time.sleep(0.02)
        ended = process.poll() is not None
    finally:
        process.kill()
        said = process.communicate()[1].decode(errors="replace").strip().splitlines()
    last_words = (said[-1] if said else "it ended without a word") if ended else ""
    return Trial(serial.read_text(errors="replace"), seconds, last_words)


def _recall(cache: Path) -> Accelerator | None:
    """The answer found since this boot. An unreadable note is no answer: the trial is then run again."""
    try:
        note = from_json(cache.read_bytes(), _Remembered)
    except (OSError, msgspec.MsgspecError):
        return None
    return note.accelerator if note.boot_id == _BOOT_ID.read_text().strip() else None


def _remember(cache: Path, found: Accelerator) -> None:
    """Notes the answer. Raises VmError when /run cannot be written."""
    draft = cache.with_name(cache.name + ".new")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(_Remembered(_BOOT_ID.read_text().strip(), found)))
        draft.replace(cache)
    except OSError as error:
        raise VmError(f"{cache} cannot be written", cause=str(error), hint="run as root") from error
