"""What a stream of frames says about the disks: folded frame by frame, at the receiver for what is durable, at the
applier for what is in the images. Pure.

A frame must not be folded twice: what was END's own place before would be sync data outside a sync. A redo after a
crash therefore goes on folding at the saved state's `position`, not at the images' checkpoint.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from rha.scenario import Name
from rha.wire import frames
from rha.wire.frames import BadFrame, FrameType, Header
from rha.wire.messages import End, Gap, Hello, Mark, Return, Rewind

# new: the image is all zeros and was never written; stale: it holds something, of an unknown moment of the disk;
# syncing: between MARK and END; ordered: every record counts, consistent from `end_lsn` on; broken: a GAP, ranges known
# to the master; rewinding, rewound: it is taken, or was taken, back to an earlier point, or it is what a substitute
# left: consistent, and no longer what the stream says
Phase = Literal["new", "stale", "syncing", "ordered", "broken", "rewinding", "rewound"]


class DiskState(msgspec.Struct, kw_only=True, frozen=True):
    """One disk of the stream. `end_lsn` is valid iff `phase` is ordered; `why` is the reason of a broken one."""

    name: Name  # also of the image's file
    bytes: int
    phase: Phase = "new"
    end_lsn: int = 0
    why: str = ""


class StreamState(msgspec.Struct, kw_only=True, frozen=True):
    """The whole. `next_lsn`: where the next frame must stand; None: anywhere above `floor`, a new generation.
    `position`: the journal below it is what the state was folded from; valid iff the state is a saved one.
    `shown_lsn`, `shown_time`: the point that the disks were taken back to; valid iff they are rewound. `returned`: they
    are what a substitute left at `shown_time`."""

    generation: str = ""
    next_lsn: int | None = None
    floor: int = 0
    position: int = 0
    disks: tuple[DiskState, ...] = ()
    shown_lsn: int = 0
    shown_time: float = 0.0
    returned: bool = False

    @property
    def is_rewound(self) -> bool:
        return bool(self.disks) and all(disk.phase == "rewound" for disk in self.disks)

    @property
    def lsn(self) -> int:
        """End of what the state has seen."""
        return self.floor if self.next_lsn is None else self.next_lsn

    def why_not_consistent(self) -> str | None:
        """The reason why a disk image at this point would be no state of the master, or None when it is one."""
        if not self.disks:
            return "nothing was received yet"
        for disk in self.disks:
            if disk.phase not in ("ordered", "rewound"):
                return f"{disk.name}: {_PHASES[disk.phase]}{f' ({disk.why})' if disk.why else ''}"
            if self.lsn < disk.end_lsn:
                return f"{disk.name}: its sync ends {disk.end_lsn - self.lsn} bytes of stream later"
        return None


_PHASES = {
    "new": "the first sync has not begun",
    "stale": "the master's capture began anew, the image must be compared",
    "syncing": "a sync is running",
    "broken": "the disk left write order",
    "rewinding": "it is being taken back to an earlier point",
}

Message = Hello | Mark | End | Gap | Rewind | Return | None
_MESSAGES: dict[FrameType, type[Hello | Mark | End | Gap | Rewind | Return]] = {
    FrameType.HELLO: Hello,
    FrameType.MARK: Mark,
    FrameType.END: End,
    FrameType.GAP: Gap,
    FrameType.REWIND: Rewind,
    FrameType.RETURN: Return,
}


def decode(header: Header, payload: bytes | memoryview) -> Message:
    """The message of a journalled control frame; None for data frames. Raises BadFrame."""
    kind = _MESSAGES.get(header.type)
    return frames.decode_control(header, payload, kind) if kind else None


def fold(state: StreamState, header: Header, message: Message, *, redo: bool = False) -> StreamState:
    """The state after one more frame. With `redo` the frame was accepted before, and its place is not questioned.

    Raises BadFrame when the frame cannot stand here: a hole in the LSNs, or a disk that the stream does not have.
    """
    if isinstance(message, Hello):
        return _begin_generation(state, message)
    if isinstance(message, Rewind):
        return rewound(state, header.lsn, message, "rewound")
    if isinstance(message, Return):
        return _returned(state, header.lsn, message)
    if not redo:
        _check_place(state, header)
    advance = header.raw_length if header.type is FrameType.RECORDS else 0
    state = msgspec.structs.replace(state, next_lsn=header.lsn + advance)
    if isinstance(message, Mark):
        return _change(state, message.disks, phase="syncing", why="")
    if isinstance(message, End):
        return _change(state, message.disks, phase="ordered", end_lsn=message.lsn, why="")
    if isinstance(message, Gap):
        return _change(state, [message.disk], phase="broken", why=message.reason)
    if header.type is FrameType.RESYNC and _disk(state, header.disk).phase not in ("syncing", "broken"):
        # After a gap the sync is broken off, but what was read before is on its way and still counts.
        raise BadFrame("sync data outside a sync", cause=f"disk {header.disk} at LSN {header.lsn}")
    return state


def state_at(state: StreamState, lsn: int) -> StreamState:
    """A folded state where only data frames up to `lsn` have followed since."""
    if state.next_lsn is not None or lsn > state.floor:
        return msgspec.structs.replace(state, next_lsn=lsn)
    return state


def _begin_generation(state: StreamState, hello: Hello) -> StreamState:
    if hello.generation == state.generation:
        return _grow(state, hello)
    known = {disk.name: disk for disk in state.disks}
    disks = []
    for disk in hello.disks:
        before = known.get(disk.name)
        fresh = before is None or before.bytes > disk.bytes or before.phase == "new"
        disks.append(DiskState(name=disk.name, bytes=disk.bytes, phase="new" if fresh else "stale"))
    return StreamState(generation=hello.generation, next_lsn=None, floor=state.lsn, disks=tuple(disks))


def _grow(state: StreamState, hello: Hello) -> StreamState:
    """A greeting in the middle of a generation is journalled when disks have grown: what stands in the new part is not
    in the stream."""
    sizes = {disk.name: disk.bytes for disk in hello.disks}
    disks = [
        disk
        if sizes.get(disk.name, 0) <= disk.bytes
        else msgspec.structs.replace(
            disk,
            bytes=sizes[disk.name],
            **({"phase": "broken", "why": "grown"} if disk.phase in ("ordered", "syncing") else {}),
        )
        for disk in state.disks
    ]
    return msgspec.structs.replace(state, disks=tuple(disks))


def rewound(state: StreamState, lsn: int, message: Rewind, phase: Literal["rewinding", "rewound"]) -> StreamState:
    """The state of disks that are taken back. Whatever the master says next, they must be compared."""
    disks = tuple(DiskState(name=disk.name, bytes=disk.bytes, phase=phase) for disk in state.disks)
    return StreamState(floor=lsn, disks=disks, shown_lsn=message.lsn, shown_time=message.time)


def _returned(state: StreamState, lsn: int, message: Return) -> StreamState:
    """The state of disks that are what a substitute left. The master goes on from the same, and may have written since:
    they must be compared, whatever generation its stream is of."""
    disks = tuple(DiskState(name=disk.name, bytes=disk.bytes, phase="rewound") for disk in state.disks)
    return StreamState(floor=lsn, disks=disks, shown_lsn=lsn, shown_time=message.time, returned=True)


def _check_place(state: StreamState, header: Header) -> None:
    if state.next_lsn is None and header.lsn > state.floor:
        return
    if header.lsn != state.next_lsn:
        raise BadFrame(
            "the stream has a hole",
            cause=f"{header.type.name} at LSN {header.lsn}, expected {state.next_lsn}",
            hint="the engine will connect again and go on from the last acknowledged LSN",
        )


def _disk(state: StreamState, index: int) -> DiskState:
    if not 0 <= index < len(state.disks):
        raise BadFrame("a disk that the scenario does not have", cause=f"index {index} of {len(state.disks)}")
    return state.disks[index]


def _change(state: StreamState, indices: list[int], **fields: object) -> StreamState:
    disks = list(state.disks)
    for index in indices:
        disks[index] = msgspec.structs.replace(_disk(state, index), **fields)
    return msgspec.structs.replace(state, disks=tuple(disks))
