"""The verdict on a scene, from what its clients wrote down and what the two databases hold. Pure; nothing that rha says
of itself is believed but its promise, which is what it is judged by.

The rules:
- a commit that the master acknowledged before the promise (the time up to which the appliance said that it has
  everything) is in the substitute; of the later ones those that are missing are the last ones of their client
- a commit that the substitute acknowledged is in the substitute
- no row is there that was never sent, or with another content; amcheck finds nothing
- the master acknowledged nothing after the substitute's first client came: by the clients' clock, and by the rows that
  only the master's own disks hold
- each client that has to, ends on the substitute

After a planned move there and back (`judge_journey`) nothing at all may be missing on the master, and it served before
and after its substitute, never beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from lab.ledger import Attempt, acknowledged

Row = tuple[str, int]  # client, number


class Held(NamedTuple):
    """A database's content. `servers`: for each row the address that it was committed at, as the server knew itself."""

    servers: Mapping[Row, str]
    damaged: Sequence[Row]
    faults: Sequence[str]


class Sites(NamedTuple):
    """Where clients found whom. `substitute_self`: as the substitute knows itself, behind its network's translation."""

    master: str
    substitute: str
    substitute_self: str


class Story(NamedTuple):
    """One scene's evidence. Times in seconds since the epoch, this host's clock. `ends`: clients that must have ended
    on the substitute; `lost_at`: when the master was lost; `master`: None when its disks were not read."""

    sites: Sites
    attempts: Mapping[str, Sequence[Attempt]]
    substitute: Held
    master: Held | None
    promise: float
    lost_at: float
    ends: Sequence[str]


class Journey(NamedTuple):
    """A planned move to the substitute and back. `master`: what the server holds in the end."""

    sites: Sites
    attempts: Mapping[str, Sequence[Attempt]]
    master: Held


class Verdict(NamedTuple):
    """`faults`: sentences, none when all is as it must be. `lost`: acknowledged by the master, not in the substitute.
    `rpo_seconds`: from the first of these acknowledgements to the loss; 0.0 when nothing is lost."""

    acknowledged: int
    lost: int
    rpo_seconds: float
    faults: Sequence[str]


def judge(story: Story) -> Verdict:
    """See the module."""
    lost = [
        one
        for client, attempts in story.attempts.items()
        for one in acknowledged(attempts, story.sites.master)
        if (client, one.id) not in story.substitute.servers
    ]
    faults = [
        *(fault for client, attempts in story.attempts.items() for fault in _of_client(story, client, attempts)),
        *_of_content(story.attempts, "substitute", story.substitute),
        *(_of_content(story.attempts, "master", story.master) if story.master else ()),
        *_two_writers(story),
    ]
    count = sum(one.acked is not None for attempts in story.attempts.values() for one in attempts)
    return Verdict(count, len(lost), _rpo(story, lost), faults)


def judge_journey(journey: Journey) -> Verdict:
    """See the module. Its RPO is 0.0: whatever is missing is a fault."""
    sites, held = journey.sites, journey.master.servers
    acked = sorted(
        (one.acked, client, one) for client, tried in journey.attempts.items() for one in tried if one.acked is not None
    )
    missing = [(client, one.id) for _, client, one in acked if (client, one.id) not in held]
    itself = {sites.master: sites.master, sites.substitute: sites.substitute_self}
    elsewhere = [
        (client, one.id) for _, client, one in acked if held.get((client, one.id), "") not in ("", itself[one.address])
    ]
    ways = [address for address, _ in groupby(one.address for _, _, one in acked)]
    faults = [*_of_content(journey.attempts, "master", journey.master)]
    if missing:
        faults.append(f"{len(missing)} acknowledged commits are missing (first: {missing[0]})")
    if elsewhere:
        faults.append(
            f"{len(elsewhere)} commits were made by another than who acknowledged them (first: {elsewhere[0]})"
        )
    if ways != [sites.master, sites.substitute, sites.master]:
        faults.append(f"not there and back: acknowledged by {', then '.join(ways) or 'nobody'}")
    return Verdict(len(acked), len(missing), 0.0, faults)


def _rpo(story: Story, lost: Sequence[Attempt]) -> float:
    """A master that dies slowly acknowledges for a moment after the loss was begun."""
    if not lost:
        return 0.0
    times = [one.acked for one in lost if one.acked is not None]
    return max(story.lost_at, *times) - min(times)


def _of_client(story: Story, client: str, attempts: Sequence[Attempt]) -> Iterable[str]:
    sites, held = story.sites, story.substitute.servers
    by_master = acknowledged(attempts, sites.master)
    missing = [one for one in by_master if (client, one.id) not in held]
    broken = [one.id for one in missing if one.acked is not None and one.acked <= story.promise]
    if broken:
        yield f"{client}: {len(broken)} commits are missing that the appliance said it held (first: {broken[0]})"
    if missing:
        later = [one.id for one in by_master if one.id > missing[0].id and (client, one.id) in held]
        if later:
            yield f"{client}: row {missing[0].id} is missing, and row {later[0]}, committed after it, is there"
    gone = [one.id for one in acknowledged(attempts, sites.substitute) if (client, one.id) not in held]
    if gone:
        yield f"{client}: {len(gone)} commits of the substitute are missing in it (first: {gone[0]})"
    last = next((one for one in reversed(attempts) if one.acked is not None), None)
    if client in story.ends and (last is None or last.address != sites.substitute):
        yield f"{client}: does not end on the substitute ({last.address if last else 'nobody ever answered'})"


def _of_content(attempts: Mapping[str, Sequence[Attempt]], name: str, held: Held) -> Iterable[str]:
    sent = {(client, one.id) for client, tried in attempts.items() for one in tried}
    invented = sorted(set(held.servers) - sent)
    for rows, text in ((invented, "were never sent"), (held.damaged, "hold something else than was sent")):
        if rows:
            yield f"{name}: {len(rows)} rows {text} (first: {rows[0]})"
    if held.faults:
        yield f"{name}: {len(held.faults)} findings of amcheck (first: {held.faults[0]})"


def _two_writers(story: Story) -> Iterable[str]:
    sites = story.sites
    every = [(client, one) for client, attempts in story.attempts.items() for one in attempts]
    begun = min((one.sent for _, one in every if one.acked and one.address == sites.substitute), default=None)
    if begun is None:
        return
    late = [one for _, one in every if one.acked and one.address == sites.master and one.acked > begun]
    if late:
        yield f"two writers: the master acknowledged {len(late)} commits after the substitute had its first"
    sent = {(client, one.id): one.sent for client, one in every}
    masters = story.master.servers if story.master else {}
    alone = [row for row in masters if row not in story.substitute.servers and sent.get(row, 0.0) > begun]
    if alone:
        yield f"two writers: {len(alone)} rows on the master's disks were sent after the substitute began to serve"
    differing = [row for row, server in masters.items() if story.substitute.servers.get(row, server) != server]
    if differing:
        yield f"two writers: {len(differing)} rows were committed on both sides (first: {differing[0]})"
    own = sites.substitute_self
    wrong = [row for row, server in masters.items() if server == own]
    if wrong:
        yield f"two writers: {len(wrong)} rows of the substitute are on the master's disks"
