"""What a switchback plans, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rha.errors import DeviceError, StateError
from rha.scenario import Appliance, Disk, Lease, Scenario
from rha.switch.switchback import BackStep, World, is_past_return, plan
from rha.vm.base import DomainState

SCENARIO = Scenario(
    name="web",
    disk=[Disk(name="root", device="/dev/a"), Disk(name="data", device="/dev/b")],
    appliance=Appliance(address="a:1", ca="/a", certificate="/b", key="/c"),
)
SIZES = {"root": 1 << 30, "data": 1 << 20}
WORLD = World(
    scenario=SCENARIO, serving=True, domain=DomainState.RUNNING, sizes=SIZES, offered=SIZES, redirected=True
)  # fmt: skip


def names(world: World) -> list[str]:
    return [step.name for step in plan(world)]


def test_clients_are_led_away_before_the_guest_ends_and_all_is_equal_before_the_master_knows():
    order = names(WORLD)
    assert order == [
        "track", "copy", "catch-up", "revert-redirect", "stop-guest", "restore-guest", "last-pass", "verify",
        "hand-over", "keep", "remove",
    ]  # fmt: skip
    assert "revert-redirect" not in names(replace(WORLD, redirected=False))


def test_what_is_changed_before_the_hand_over_can_be_taken_back():
    undos = {step.name: step.undo for step in plan(WORLD)}
    assert undos["stop-guest"] == "start the substitute again"
    assert undos["revert-redirect"] == "redirect clients again"
    assert undos["restore-guest"]
    assert undos["track"]
    assert not any(undos[name] for name in ("hand-over", "keep", "remove"))


def test_the_lease_is_given_back_when_the_master_may_have_it():
    scenario = replace_scenario(lease=Lease(endpoints=["http://e:1"]))
    order = names(replace(WORLD, scenario=scenario))
    assert order[order.index("hand-over") + 1] == "release"


def replace_scenario(**fields: object) -> Scenario:
    words = {name: getattr(SCENARIO, name) for name in Scenario.__struct_fields__}
    return Scenario(**{**words, **fields})


def test_past_return_it_only_goes_on():
    begun = frozenset({"track", "copy", "stop-guest", "hand-over"})
    assert is_past_return(begun)
    gone = replace(WORLD, begun=begun, offered=None, domain=DomainState.OFF)
    assert names(gone) == ["hand-over", "keep", "remove"]
    assert names(replace(gone, ended=frozenset({"hand-over", "keep"}))) == ["remove"]


@pytest.mark.parametrize(
    ("change", "what", "cause"),
    [
        ({"serving": False}, "no substitute of web serves", "there is nothing to bring back"),
        ({"domain": DomainState.OFF}, "the substitute of web does not run", "domain rha-web is off"),
        ({"offered": None}, "no disks are offered for web", "no receiver is connected"),
        ({"offered": {"root": 1 << 30}}, "disk data is not offered", "offered: root; the substitute has: root, data"),
        (
            {"offered": {"root": 1 << 29, "data": 1 << 20}},
            "disk root is too small",
            "536870912 bytes (512 MiB) against 1073741824 (1 GiB)",
        ),
        ({"begun": frozenset({"track"})}, "a switchback of web is being taken back", ""),
        (
            {"parted": "SPLIT BRAIN: both wrote", "offered": None},
            "the master of web wrote alone, and a switchback overwrites its disks",
            "SPLIT BRAIN: both wrote",
        ),
    ],
)
def test_refusals(change, what, cause):
    with pytest.raises((StateError, DeviceError)) as caught:
        plan(replace(WORLD, **change))
    assert (caught.value.what, caught.value.cause) == (what, cause)
    assert caught.value.hint


def test_a_person_may_give_up_what_the_master_wrote():
    assert names(replace(WORLD, parted="SPLIT BRAIN: both wrote", overwrite=True)) == names(WORLD)


def test_a_larger_disk_will_do():
    assert plan(replace(WORLD, offered={"root": 2 << 30, "data": 1 << 20, "spare": 5}))


def test_sentences_say_what_a_person_must_know():
    said = {step.name: step.sentence for step in plan(replace(WORLD, force=True, verify_all=True))}
    assert "its power is cut (forced)" in said[BackStep.STOP_GUEST]
    assert "compare everything once more" in said[BackStep.VERIFY]
    assert "all is taken back" in {step.name: step.sentence for step in plan(WORLD)}[BackStep.STOP_GUEST]
