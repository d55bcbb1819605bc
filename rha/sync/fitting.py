"""Which disks can take the content of which. Pure; both ends of a switchback ask it."""

from __future__ import annotations

from collections.abc import Mapping

from rha.errors import DeviceError
from rha.units import show_bytes


def why_not_fitting(sizes: Mapping[str, int], offered: Mapping[str, int]) -> DeviceError | None:
    """The reason why these disks cannot take what the substitute has. Larger ones can: the rest stays as it is."""
    if missing := [name for name in sizes if name not in offered]:
        return DeviceError(
            f"disk {missing[0]} is not offered",
            cause=f"offered: {', '.join(offered) or 'none'}; the substitute has: {', '.join(sizes)}",
            hint="the scenario's file of the receiver is another one",
        )
    for name, size in sizes.items():
        if offered[name] < size:
            return DeviceError(
                f"disk {name} is too small",
                cause=f"{offered[name]} bytes ({show_bytes(offered[name])}) against {size} ({show_bytes(size)})",
                hint=f"rha receive … --disk {name}=DEVICE with a device of at least that size",
            )
    return None
