"""Where the images of one scenario lie: in files of the store, on devices (target.py), in Ceph (rbd_target.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rha.appliance import rbd_target, target
from rha.appliance.config import Config, Target
from rha.appliance.stream import DiskState
from rha.errors import RhaError
from rha.image import formats, rbd
from rha.image.storage_daemon import ImageSpec


class Places:
    """By the appliance's file. `folder`: the scenario's own."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._format, self._folder = config.image_format, folder
        self._targets = {one.disk: one for one in config.target if one.scenario == folder.name}

    def spec(self, disk: str) -> ImageSpec:
        """The image of a disk."""
        place = self._targets.get(disk)
        form = self._format if place is None else "raw" if place.device else rbd.FORMAT
        return ImageSpec(disk, self._folder / "images" / f"{disk}.{form}", form)

    def is_compared_first(self, disk: str) -> bool:
        """Nobody knows what a new device holds; everything else begins as zeros."""
        place = self._targets.get(disk)
        return place is not None and bool(place.device)

    def begin(self, disks: Sequence[DiskState]) -> None:
        """Makes the images of a scenario that is new here.

        Raises StorageError; of a target also DeviceError, StateError, NetworkError, HostError, ConfigError. Where one
        is refused, nothing was changed in Ceph.
        """
        in_ceph = self._in_ceph(disks)
        for path, place, disk in in_ceph:
            rbd_target.check(path, place, disk.bytes)
        for path, place, disk in self._on_target(disks):
            if place.device:
                target.begin(path, place.device, disk.bytes)
        for path, place, disk in in_ceph:
            rbd_target.begin(path, place, disk.bytes)

    def prepare(self, disks: Sequence[DiskState]) -> None:
        """Makes sure that every image can be opened; what is missing of new ones in files is made. Raises as
        `begin`."""
        for disk in disks:
            path, place = self.spec(disk.name).path, self._targets.get(disk.name)
            if place is None:
                if not path.exists() and disk.phase == "new":
                    formats.create(path, disk.bytes, self._format)
            elif place.device:
                target.go_on(path, place.device, disk.bytes)
            else:
                rbd_target.go_on(path, place, disk.bytes)

    def opened(self, disks: Sequence[DiskState]) -> None:
        """A storage daemon of ours has opened the images. A daemon that is not noted is only waited for, once dead."""
        for path, _, _ in self._in_ceph(disks):
            with contextlib.suppress(RhaError):
                rbd_target.note_users(path)

    def any_in_ceph(self, disks: Sequence[DiskState]) -> bool:
        return bool(self._in_ceph(disks))

    def patience(self, disks: Sequence[DiskState]) -> float | None:
        """Seconds without an answer after which images are opened anew. Of a local disk there is no such limit: a
        process that waits for one cannot be ended either."""
        return rbd.PATIENCE_SECONDS if self._in_ceph(disks) else None

    def _in_ceph(self, disks: Sequence[DiskState]) -> list[tuple[Path, Target, DiskState]]:
        return [found for found in self._on_target(disks) if found[1].rbd]

    def _on_target(self, disks: Sequence[DiskState]) -> list[tuple[Path, Target, DiskState]]:
        """Those disks whose images are not in files."""
        targets = self._targets
        return [(self.spec(disk.name).path, targets[disk.name], disk) for disk in disks if disk.name in targets]
