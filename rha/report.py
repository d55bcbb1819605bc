"""The one report: engine and appliance fill it, the table, `--json`, web pages and metrics show it.

Additive: fields are added, never renamed; `version` counts the changes. Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

VERSION = 1

# A number of a report that comes from another host. Without the limits JSON may hold one of any length.
Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class Sync(msgspec.Struct, kw_only=True):
    """A running sync or resync, or one that is over."""

    method: str  # "full", "volume", "compare" or "marked"
    done_bytes: Number
    total_bytes: Number
    sent_bytes: Number  # what had to travel
    rate_bytes: float  # per second, over the last seconds
    remaining_seconds: float | None  # None: not known yet
    read_bytes: Number = 0  # of the disk
    compared_bytes: Number = 0  # by digest
    left_out_bytes: Number = 0  # free space, neither read nor sent
    source: str = ""  # who said what is free, and what could not be asked
    seconds: float = 0.0  # since it began
    waited_seconds: float = 0.0  # of these, with all read, until writes from before it had surely ended


class DiskReport(msgspec.Struct, kw_only=True):
    """One disk. `state`: write-order, catching-up, bitmap, unknown, for the reason of that name. `losses` counts the
    writes that did not get into the stream since the probe was loaded, `left_order` how often the disk left write order
    as far as the history goes back, by reason."""

    name: str
    device: str
    bytes: Number
    state: str
    why: str
    since: float
    dirty_bytes: Number = 0
    losses: dict[str, Number] = {}
    reason: str = ""
    left_order: dict[str, Number] = {}
    sync: Sync | None = None
    last_sync: Sync | None = None  # the last one that this engine ended


class Point(msgspec.Struct, kw_only=True):
    """A consistent point: an LSN and the master's time at it."""

    lsn: Number
    time: float


class LinkReport(msgspec.Struct, kw_only=True):
    """The engine's side of a connected link. `limit_bytes` per second, 0: none. `sent_bytes`: of this session as they
    travelled, `raw_bytes` before compression. `waits`: what sending waits for, empty when for nothing."""

    limit_bytes: Number
    limit: str
    compression: str
    sent_bytes: Number
    raw_bytes: Number
    waits: str = ""


class SpoolReport(msgspec.Struct, kw_only=True):
    """The master's spool. `why`: what it does now, as a sentence."""

    path: str
    bytes: Number
    used_bytes: Number
    why: str


class Window(msgspec.Struct, kw_only=True):
    """The points of a scenario: every write since `oldest` is one, where the images were consistent. `bytes` of at most
    `most_bytes` on the appliance's disk; `wanted_seconds`: how far back it may reach."""

    oldest: Point
    bytes: Number
    most_bytes: Number
    wanted_seconds: float


class KeptReport(msgspec.Struct, kw_only=True):
    """What a discarded substitute wrote. `bytes` of its own, `held_bytes` of points that are kept for it. `why_lost`:
    why it cannot be read; empty: it can."""

    name: str
    created: float
    bytes: Number
    held_bytes: Number
    why_lost: str = ""


class VmReport(msgspec.Struct, kw_only=True):
    """The substitute VM of a scenario that failed over."""

    domain: str
    state: str
    accelerator: str = ""
    rpo_seconds: float | None = None
    rto_seconds: float | None = None


class Tested(msgspec.Struct, kw_only=True):
    """Test boots of a scenario. `time`, `outcome` (rha/switch/bootreport.py), `why`, `left`: of the last one; None:
    there was none. `running`: what one does now. `missed`: why none has begun when one was due. `next`: when one is
    due; None: only when a person asks for it."""

    time: float | None = None
    outcome: str = ""
    why: str = ""
    left: str = ""
    running: str = ""
    missed: str = ""
    next: float | None = None


class ReturnReport(msgspec.Struct, kw_only=True):
    """A switchback under way, or the receiver that waits for one. `state`: offered, returning, handing-over,
    rolling-back. `passes` have ended; `compared_bytes`, `sent_bytes` of all passes; the others of the pass under way.
    `receiver`: who offers disks."""

    state: str
    step: str = ""
    receiver: str = ""
    passes: int = 0
    compared_bytes: int = 0
    sent_bytes: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes: float = 0.0
    remaining_seconds: float | None = None
    seconds: float = 0.0


class LeaseReport(msgspec.Struct, kw_only=True):
    """The master's lease. `owner`: as etcd last said; empty: nobody, or not known. `serving`: what the sentry says of
    what the lease lets this master serve by: serving, starting, ended, failed."""

    owner: str
    is_held: bool
    seconds_left: float
    why: str
    serving: str
    serving_why: str = ""


class CheckReport(msgspec.Struct, kw_only=True):
    """One check's last answer. `time`: when it was given, by the clock of whoever asked."""

    kind: str
    address: str
    answered: bool
    why: str
    time: float


class Report(msgspec.Struct, kw_only=True):
    """One scenario as one side sees it. `role`: engine or appliance.

    `health`: ok, warning, alarm, unknown. `lag_bytes` and `lag_seconds`: captured and not yet durable on the appliance
    (engine), durable and not yet applied (appliance); None when that side cannot know.
    """

    version: Number = VERSION
    role: str
    scenario: str
    mode: str
    time: float
    health: str
    state: str
    why: str
    disks: list[DiskReport]
    lag_bytes: Number | None = None
    lag_seconds: float | None = None
    consistent: Point | None = None
    records: Number = 0
    payload_bytes: Number = 0
    ring_bytes: Number = 0
    ring_used_bytes: Number = 0
    peer: str = ""
    connected: bool = False
    link: LinkReport | None = None
    spool: SpoolReport | None = None
    vm: VmReport | None = None
    back: ReturnReport | None = None
    window: Window | None = None
    kept: list[KeptReport] = []
    lease: LeaseReport | None = None
    released: str = ""  # engine: why the master does not serve; empty: it does
    paused: str = ""  # appliance: who has switched acting by itself off, since when and why; empty: nobody
    test: Tested | None = None
    checks: list[CheckReport] = []
    alarms: list[str] = []
