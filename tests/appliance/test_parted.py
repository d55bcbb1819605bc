"""A master that comes while a substitute stands, on a real replica: what it says is kept, judged, shown, forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from one_replica import NAME, hello
from test_kept import Parting
from test_points import quick, replica

from rha.appliance import parted
from rha.appliance.parted import Replaced
from rha.appliance.replica import Replica
from rha.appliance.split_verbs import SplitVerbs
from rha.errors import StateError
from rha.switch import progress as ledger
from rha.wire.messages import Alone, AloneDisk, Hello

__all__ = ["quick", "replica"]


@pytest.fixture
def site(replica: Replica) -> Iterator[Parting]:
    site = Parting(replica)
    yield site
    site.warden.stop()


def greeting(site: Parting, more: int, *, generation: str = "a" * 32) -> Hello:
    """Of a master whose stream went on for `more` bytes behind what the appliance has."""
    lsn, disk = site.replica.durable_lsn, AloneDisk(name="d0", state="ordered")
    alone = Alone(acknowledged_lsn=lsn, lsn=lsn + more, records=1, payload_bytes=max(0, more - 32), disks=[disk])
    return msgspec.structs.replace(hello(generation, 8), alone=alone)


def refusal(site: Parting, said: Hello) -> Replaced:
    found = site.warden.why_not_receive(said, "192.0.2.7:1")
    assert isinstance(found, Replaced)
    return found


def test_a_master_that_wrote_alone_is_refused_with_the_sentence(site: Parting) -> None:
    assert site.warden.why_not_receive(greeting(site, 4128), "192.0.2.7:1") is None, "nothing stands in its place"
    site.fail_over()
    site.write(0, 4096, 1)
    verbs = SplitVerbs(lambda _: site.warden)
    assert verbs.split(NAME)["verdict"] == "unheard"
    found = refusal(site, greeting(site, 4128))
    assert found.split.startswith("SPLIT BRAIN: since LSN ")
    assert "wrote 4 KiB in 1 record, its substitute 64 KiB of clusters since " in found.split
    assert found.cause.startswith(found.split)
    assert found.hint == f"keep it off the network; on the appliance: rha split {NAME}"
    assert site.warden.report().alarms == [found.split]
    answer = verbs.split(NAME)
    assert answer["evidence"]["master"]["peer"] == "192.0.2.7:1"
    assert answer["evidence"]["devices"] == {"d0": "/dev/d0"}


def test_it_is_an_alarm_again_after_a_restart_and_over_with_the_substitute(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    split = refusal(site, greeting(site, 4128)).split
    again = site.open()
    assert again.report().alarms == []
    again._look()
    assert again.report().alarms == [split]
    site.verbs.discard(NAME)
    assert not (site.replica.folder / parted.FILE).exists()
    assert site.warden.report().alarms == []
    with pytest.raises(StateError, match="has no substitute"):
        SplitVerbs(lambda _: site.warden).split(NAME)


def test_what_was_said_of_another_switch_does_not_count(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    refusal(site, greeting(site, 4128))
    past = ledger.load(site.replica.folder)
    assert past is not None
    cause = msgspec.structs.replace(past.trigger, decided=past.trigger.decided + 1)
    ledger.store(site.replica.folder, msgspec.structs.replace(past, trigger=cause))
    assert SplitVerbs(lambda _: site.warden).split(NAME)["verdict"] == "unheard"
    assert site.warden.report().alarms == []


def test_a_master_that_wrote_nothing_raises_no_alarm(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    said = greeting(site, 0)
    assert said.alone is not None
    found = refusal(site, msgspec.structs.replace(said, alone=msgspec.structs.replace(said.alone, payload_bytes=0)))
    assert (found.split, site.warden.report().alarms) == ("", [])
    assert "has written nothing since LSN" in found.cause


def test_another_count_or_an_old_engine_is_not_taken_for_nothing(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    assert "SPLIT BRAIN IS POSSIBLE" in refusal(site, greeting(site, 0, generation="b" * 32)).split
    assert "does not say" in refusal(site, hello("a" * 32, 8)).split


def test_what_cannot_be_noted_refuses_all_the_same(site: Parting) -> None:
    site.fail_over()
    (site.replica.folder / parted.FILE).mkdir()
    found = refusal(site, greeting(site, 4128))
    assert found.what == f"{NAME} has failed over: the master must not serve"
    assert found.split == ""
