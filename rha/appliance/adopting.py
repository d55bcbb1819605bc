"""What a substitute wrote becomes part of the replica: journalled like a sync, applied like one.

After a switchback the images show what was there before the failover. Three ways to go on were looked at:
- to wait for the master's engine, whose comparison finds everything: until it is through, the appliance would hold the
  substitute's work only in overlays that a new failover does not use, and all of it would travel a second time;
- to commit the overlays into the images (`qemu-img commit`): undo knows nothing of that, so every older point would
  show bytes of the substitute, and a redo after a crash would put old bytes over new ones;
- to journal it: MARK, the overlays' content as RESYNC, RETURN. Older points stay, a consistent one stays bootable
  (guard), a crash is redone, and when the master is lost again a failover begins from what the substitute left.

The last is done. What overlays hold is read from them alone, so the images may be written meanwhile; that changes
nothing of what the overlays and the images show together, and it may be done again from the beginning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rha import hashing
from rha.appliance.replica import Replica
from rha.hashing import Buffer
from rha.image.client import read_only_export
from rha.image.statuses import held_ranges
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.wire import frames
from rha.wire.frames import HEADER_BYTES, FrameType

PIECE_BYTES = 1 << 20
GROUP_BYTES = 16 << 20  # journalled before it is made durable and may be applied


def adopt(replica: Replica, layers: Sequence[Sequence[ImageSpec]], run: Path, moment: float, by: str) -> int:
    """Takes overlays in; returns the bytes. `layers`: from the lowest up, each with one overlay for every disk, in the
    order of the disks; nobody writes to them. `run`: a folder for the storage daemon. `moment`: of which they are.

    The images then are what the uppermost layer shows, durably. Raises StorageError; may be done again.
    """
    replica.reopen_images()
    lsn, taken, waiting = replica.begin_return(), 0, 0
    for layer in layers:
        for disk, offset, content in _held(layer, run):
            _take(replica, lsn, disk, offset, content)
            taken, waiting = taken + len(content), waiting + len(content)
            if waiting >= GROUP_BYTES:
                waiting = 0
                _settle(replica)
    replica.end_return(moment, by)
    return taken


def _held(layer: Sequence[ImageSpec], run: Path) -> Iterator[tuple[int, int, Buffer]]:
    """Disk, offset and content of everything that the overlays of one layer hold themselves."""
    with StorageDaemon(layer, run, read_only=True, alone=True) as daemon:
        for disk, spec in enumerate(layer):
            reader = daemon.reader(spec.name)
            for offset, length in held_ranges(daemon.socket, read_only_export(spec.name)):
                for at in range(offset, offset + length, PIECE_BYTES):
                    yield disk, at, reader.read(at, min(PIECE_BYTES, offset + length - at))
            reader.close()


def _take(replica: Replica, lsn: int, disk: int, offset: int, content: Buffer) -> None:
    flags, payload = 0, content
    if hashing.is_zero(content):
        flags, payload = frames.FLAG_ZEROS, frames.zeros_payload(len(content))
    raw = frames.encode(FrameType.RESYNC, payload, lsn=lsn, disk=disk, offset=offset, flags=flags)
    replica.take(frames.decode_header(raw[:HEADER_BYTES]), memoryview(payload))


def _settle(replica: Replica) -> None:
    replica.commit()
    while replica.spool_full():
        time.sleep(0.5)
