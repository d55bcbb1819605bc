"""Which disk of a VM boots, and with what firmware."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from rha.vm.base import Firmware
from rha.vm.disk_layout import boot_disk, recognise
from rha.vm.image_reader import open_image


def choose_firmware(wanted: str, images: Iterable[tuple[Path, str]]) -> tuple[int, Firmware, str]:
    """Number of the disk, firmware and reason. `wanted`: the scenario's word, which goes before what the disks say;
    `images`: path and format of each. Raises VmError when no disk boots, StorageError when one cannot be read."""
    if wanted != "auto":
        return 0, "uefi" if wanted == "uefi" else "bios", "the scenario says so"
    with ExitStack() as stack:
        return boot_disk([recognise(stack.enter_context(open_image(path, form))) for path, form in images])
