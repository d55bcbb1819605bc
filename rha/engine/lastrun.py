"""What the engine noted of its last run, so that a new start can say why the probe is not there any more."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from rha.decoding import from_json

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LastRun(msgspec.Struct, kw_only=True, frozen=True):
    """`boot_id` of the kernel that it ran under; `ended`: the engine was told to stop (a shutdown does), and did."""

    boot_id: str
    ended: bool


def boot_id() -> str:
    """Name of this boot of the kernel."""
    return _BOOT_ID.read_text().strip()


def load(folder: Path) -> LastRun | None:
    """The note, or None when there is none that can be read."""
    try:
        return from_json((folder / "last-run.json").read_bytes(), LastRun)
    except (OSError, msgspec.MsgspecError):
        return None


def save(folder: Path, *, ended: bool) -> str:
    """Notes this run. Returns why that failed, or the empty string: the note only names a reason, nothing depends on
    it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = folder / "last-run.json.new"
        beside.write_bytes(msgspec.json.encode(LastRun(boot_id=boot_id(), ended=ended)))
        beside.replace(folder / "last-run.json")
    except OSError as error:
        return f"the run cannot be noted: {error}"
    return ""


def why_no_pins(last: LastRun | None, now: str) -> Literal["first-load", "reboot", "unclean-shutdown", "pins-gone"]:
    """The reason why no probe stands in the kernel of boot `now`. Pure."""
    if last is None:
        return "first-load"
    if last.boot_id == now:
        return "pins-gone"
    return "reboot" if last.ended else "unclean-shutdown"
