"""Control messages of the wire (JSON payloads of frames)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from rha.report import Report

PROTOCOL = 1

# LSNs, bytes, indices, numbers. Without the limits JSON may hold one of any length.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Moment = Annotated[float, msgspec.Meta(ge=0, lt=253402214400)]  # seconds since the epoch, up to the year 9999


MOST_SENTENCE = 1000
Sentence = Annotated[str, msgspec.Meta(max_length=MOST_SENTENCE)]
MOST_DISKS = 16  # RHA_MAX_DISKS in csrc/record.h


class DiskHello(msgspec.Struct, kw_only=True):
    name: str
    bytes: Count


class AloneDisk(msgspec.Struct, kw_only=True, frozen=True):
    """`state`: `ordered`, every write of the disk is in the stream; `marked`, writes since `since` are known by their
    ranges only, `dirty_bytes` of them at most; `unknown`, not all were seen. `why`: not ordered."""

    name: Sentence
    state: Literal["ordered", "marked", "unknown"]
    dirty_bytes: Count = 0
    since: Moment | None = None
    why: Sentence = ""


class Alone(msgspec.Struct, kw_only=True, frozen=True):
    """What a master has captured and the appliance never acknowledged, as its engine knows it. The stream from
    `acknowledged_lsn` to `lsn`; `records` and `payload_bytes` in it, `first` and `last` submitted (the master's clock);
    None: not counted. LSNs are 0 while the ring's life has none."""

    acknowledged_lsn: Count
    lsn: Count
    records: Count | None = None
    payload_bytes: Count | None = None
    first: Moment | None = None
    last: Moment | None = None
    disks: Annotated[list[AloneDisk], msgspec.Meta(max_length=MOST_DISKS)] = []


class Hello(msgspec.Struct, kw_only=True):
    """Engine → appliance, first frame. `generation` names one ring's life (32 hex digits); LSNs of one generation are
    one count of bytes. `first_lsn`: the oldest LSN that the ring still holds; 0: none was given out yet. `orders`: the
    verbs that it takes. `alone`: None from an engine that does not say."""

    protocol: Count
    version: str
    scenario: dict[str, Any]
    host: str
    generation: str
    first_lsn: Count
    disks: list[DiskHello]
    orders: list[str] = []
    alone: Alone | None = None


class DiskNeed(msgspec.Struct, kw_only=True):
    """What the appliance's image of a disk needs: `nothing` (in write order up to `Welcome.durable_lsn`),
    `full` (the image is new and all zeros), `compare` (it holds something of unknown age), `marked` (the ranges that
    the master has marked; the image has missed nothing else)."""

    name: str
    need: Literal["nothing", "full", "compare", "marked"]


class Welcome(msgspec.Struct, kw_only=True):
    """Appliance → engine. `durable_lsn`: where the stream goes on, valid iff `generation_known`; `lsn_floor`: LSNs of a
    new generation begin above it. `credit`: as in Ack, 0 from an appliance that grants without limit; `codecs`: those
    of rha/wire/codec.py that it can read."""

    protocol: Count
    version: str
    host: str
    generation_known: bool
    durable_lsn: Count
    lsn_floor: Count
    disks: list[DiskNeed]
    credit: Count = 0
    codecs: list[str] = []


class Refuse(msgspec.Struct, kw_only=True):
    """Either side, before it closes. `final`: trying again will not help until a person acts. `split`: the sentence of
    the appliance about a substitute that has taken this master's place; empty: none has."""

    error: str
    cause: str = ""
    hint: str = ""
    final: bool = False
    split: str = ""


class Heartbeat(msgspec.Struct, kw_only=True):
    """Engine → appliance every `link.heartbeat`. `time`: the master's clock; `captured_lsn`: end of the ring right
    after: every write submitted before `time` is below it."""

    time: Moment
    captured_lsn: Count
    report: Report | None = None


class Ack(msgspec.Struct, kw_only=True):
    """Appliance → engine. Everything below `durable_lsn`, and every frame up to number `seq`, is on stable storage;
    below `applied_lsn` it is in the image. `credit`: how many bytes of credited frames, headers included, the engine
    may have sent since the greeting; it only grows. 0: no limit."""

    durable_lsn: Count
    seq: Count
    applied_lsn: Count
    credit: Count = 0


class Order(msgspec.Struct, kw_only=True):
    """Appliance → engine, at any time after the greeting. `id`: chosen by the appliance, once a connection."""

    id: Count
    verb: str
    arguments: dict[str, Any] = {}


class Answer(msgspec.Struct, kw_only=True):
    """Engine → appliance. `value` is valid iff `what` is None; `what`, `cause`, `hint` and `code` as in RhaError."""

    id: Count
    value: Any = None
    what: str | None = None
    cause: str = ""
    hint: str = ""
    code: int = 0


class OfferedDisk(msgspec.Struct, kw_only=True):
    """A disk of a repaired master. `device`: its path there, for people."""

    name: str
    bytes: int
    device: str = ""


class Offer(msgspec.Struct, kw_only=True):
    """Receiver → appliance, first frame: these disks may be overwritten with what the substitute has. `receiver` names
    one run of the program (32 hex digits)."""

    protocol: int
    version: str
    scenario: str
    host: str
    receiver: str
    disks: list[OfferedDisk]


class Taken(msgspec.Struct, kw_only=True):
    """Appliance → receiver: the offer is known. Disks are from now on named by their index in `disks`. `bytes`: of each
    of them, as the substitute has it; what a larger one has behind that is left alone."""

    protocol: int
    version: str
    host: str
    disks: list[str]
    bytes: list[int]


class Want(msgspec.Struct, kw_only=True):
    """Appliance → receiver: the digests of these ranges (offset and length in bytes, whole units except at the disk's
    end). `unit`: the flags of the HASHES frames that answer."""

    disk: int
    unit: int
    ranges: list[tuple[int, int]]


Method = Literal["full", "volume", "compare", "marked"]


class Mark(msgspec.Struct, kw_only=True):
    """A resync of these disks begins; the stream holds every write submitted from here on. `methods`: of each disk;
    empty: `method` for all. All but `marked` go over the whole disk."""

    epoch: Count
    disks: list[Count]
    method: Method
    methods: list[Method] = []


class Gap(msgspec.Struct, kw_only=True):
    """A disk left write order at the frame's LSN: later records do not hold all of its writes."""

    disk: Count
    reason: str
    count: Count


class Rewind(msgspec.Struct, kw_only=True):
    """In the journal only. The images are made what they were at a point: `lsn`, `time` (the master's clock); `start`,
    `position` and `prefix` say where the appliance finds it (rha.appliance.points.Place). `by`: who asked."""

    lsn: Count
    time: float
    start: Count
    position: Count
    prefix: Count
    by: str = ""


class Return(msgspec.Struct, kw_only=True):
    """In the journal only, behind the sync data that a substitute's overlays hold. The images are what its disks were
    when it was switched off, at `time` (the appliance's clock): no state of the master's stream, and consistent."""

    time: float
    by: str = ""


class End(msgspec.Struct, kw_only=True):
    """The resync `epoch` is complete: once everything below `lsn` is applied, these disks are in write order."""

    epoch: Count
    disks: list[Count]
    lsn: Count
