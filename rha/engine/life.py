"""What became of a watched device while it was watched. Pure, but for `look`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from rha.capture.device import Device, is_read_only, lookup
from rha.errors import DeviceError
from rha.units import show_bytes

Kind = Literal["well", "grown", "shrunk", "removed", "replaced", "read-only"]


class Seen(NamedTuple):
    """A device as it is now. `device` None: nothing is there, for the reason in `why`."""

    device: Device | None
    is_read_only: bool = False
    why: str = ""


class Life(NamedTuple):
    """What happened, and the evidence for a person."""

    kind: Kind
    evidence: str


def look(path: str) -> Seen:
    """Asks the kernel. Cheap, reads no block of the device."""
    try:
        device = lookup(path)
        return Seen(device, is_read_only(device))
    except (DeviceError, OSError) as error:
        return Seen(None, why=error.cause if isinstance(error, DeviceError) else str(error))


def life_of(known: Device, watched_sectors: int, seen: Seen) -> Life:
    """What became of `known`, of which the probe watches `watched_sectors`."""
    now = seen.device
    if now is None:
        return Life("removed", f"{known.path}: {seen.why}")
    if now.sectors == 0:
        return Life("removed", f"{known.path} holds no medium: its size is 0")
    if (now.dev, now.start, now.diskseq) != (known.dev, known.start, known.diskseq):
        return Life("replaced", f"{known.path} is another device now")
    if now.sectors != watched_sectors:
        sizes = f"{known.path}: {show_bytes(watched_sectors * 512)} are now {show_bytes(now.bytes)}"
        return Life("grown" if now.sectors > watched_sectors else "shrunk", sizes)
    if seen.is_read_only:
        return Life("read-only", f"{known.path} is read-only: nothing can be written to it")
    return Life("well", "")
