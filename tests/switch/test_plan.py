"""What is to be done, and what is refused."""

from dataclasses import replace

import msgspec
import pytest

from rha.errors import StateError
from rha.scenario import Appliance, Check, Disk, Guest, Network, RewriteDns, Scenario, Vm
from rha.switch.plan import StepName, World, plan
from rha.vm.base import DomainState

SCENARIO = Scenario(
    name="web",
    disk=[Disk(name="root", device="/dev/vda"), Disk(name="data", device="/dev/vdb")],
    appliance=Appliance(address="a:1", ca="/a", certificate="/b", key="/c"),
    vm=Vm(bus="virtio", ready=Check(kind="tcp", address="127.0.0.1:2222")),
)
WORLD = World(
    scenario=SCENARIO, why_inconsistent=None, force=False, begun=frozenset(), serving=False, domain=DomainState.ABSENT
)  # fmt: skip
PLAIN = [
    StepName.STOP_RECEIVING,
    StepName.APPLY_SPOOL,
    StepName.CLOSE_IMAGES,
    StepName.MAKE_OVERLAY,
    StepName.DEFINE_DOMAIN,
    StepName.START_DOMAIN,
    StepName.WAIT_READY,
    StepName.RECORD,
]
STARTED = frozenset(set(PLAIN) - {StepName.WAIT_READY, StepName.RECORD})


def names(world: World) -> list[StepName]:
    return [step.name for step in plan(world)]


def test_a_new_failover_does_everything_in_order():
    assert names(WORLD) == PLAIN


def test_sentences():
    said = {step.name: step.sentence for step in plan(WORLD)}
    assert said[StepName.MAKE_OVERLAY] == "put a qcow2 overlay on root, data; the replica itself stays as it is"
    assert said[StepName.WAIT_READY] == "wait until tcp 127.0.0.1:2222 answers"
    assert said[StepName.START_DOMAIN] == "start domain rha-web"


def test_without_a_ready_check_it_says_so():
    world = replace(WORLD, scenario=Scenario(name="web", disk=SCENARIO.disk, appliance=SCENARIO.appliance))
    assert plan(world)[-2].sentence == "no vm.ready check in the scenario: only see that the domain runs"


def with_vm(vm: Vm) -> World:
    return replace(WORLD, scenario=msgspec.structs.replace(SCENARIO, vm=vm))


@pytest.mark.parametrize(
    ("vm", "sentence"),
    [
        (Vm(), "look up which bus it can drive"),
        (Vm(bus="sata", network=Network(kind="user")), "fit it to its new network card"),
        (
            Vm(network=Network(kind="user"), guest=Guest(addresses=["192.0.2.9/24"], hostname="dr")),
            "look up which bus it can drive, fit it to its new network card, set 192.0.2.9/24, dr",
        ),
    ],
)
def test_a_guest_is_adapted_in_its_overlay_before_its_domain_is_defined(vm: Vm, sentence: str):
    steps = plan(with_vm(vm))
    at = [step.name for step in steps].index(StepName.ADAPT_GUEST)
    assert steps[at].sentence == f"adapt the guest in its overlay: {sentence}"
    assert (steps[at - 1].name, steps[at + 1].name) == (StepName.MAKE_OVERLAY, StepName.DEFINE_DOMAIN)


def test_a_guest_is_left_alone_when_nothing_is_to_be_done_or_nothing_may_be():
    for vm in (Vm(bus="sata"), Vm(network=Network(kind="user"), guest=Guest(adapt="no"))):
        assert StepName.ADAPT_GUEST not in names(with_vm(vm))


def test_cut_off_before_the_start_everything_is_done_again():
    assert names(replace(WORLD, begun=STARTED - {StepName.START_DOMAIN}, domain=DomainState.OFF)) == PLAIN


@pytest.mark.parametrize("domain", list(DomainState))
@pytest.mark.parametrize("serving", [False, True])
@pytest.mark.parametrize("why", [None, "a sync is running"])
def test_images_below_a_started_guest_are_never_touched(domain, serving, why):
    world = replace(WORLD, begun=STARTED, domain=domain, serving=serving, why_inconsistent=why)
    try:
        done = set(names(world))
    except StateError:
        return
    assert not done & {StepName.APPLY_SPOOL, StepName.CLOSE_IMAGES, StepName.MAKE_OVERLAY, StepName.STOP_RECEIVING}


def test_cut_off_while_the_guest_boots_it_goes_on_waiting():
    world = replace(WORLD, begun=STARTED, domain=DomainState.RUNNING)
    assert names(world) == [StepName.WAIT_READY, StepName.RECORD]


def test_a_guest_lost_with_its_host_is_started_again_on_its_overlays():
    world = replace(WORLD, begun=STARTED, domain=DomainState.OFF, serving=True)
    assert names(world)[:2] == [StepName.DEFINE_DOMAIN, StepName.START_DOMAIN]
    assert plan(world)[1].sentence == "start domain rha-web again, on the overlays it had"


def test_inconsistent_is_refused():
    with pytest.raises(StateError) as caught:
        plan(replace(WORLD, why_inconsistent="a sync is running"))
    assert caught.value.lines() == [
        "error: web has no consistent point to fail over to",
        "cause: a sync is running",
        "hint: rha failover web --force boots the images as they are; file systems may be damaged",
    ]


def test_inconsistent_and_forced_is_said():
    steps = plan(replace(WORLD, why_inconsistent="a sync is running", force=True))
    assert steps[1].sentence == "apply what is spooled (forced: a sync is running)"


def test_serving_is_refused():
    with pytest.raises(StateError, match="serves already"):
        plan(replace(WORLD, begun=STARTED, serving=True, domain=DomainState.RUNNING))


def test_a_running_domain_nobody_started_is_refused():
    with pytest.raises(StateError, match="no failover has started it"):
        plan(replace(WORLD, domain=DomainState.RUNNING))


def with_redirect() -> World:
    table = RewriteDns(servers=["192.0.2.53"], zone="z", name="n", master=["192.0.2.1"], replica=["192.0.2.2"])
    return replace(WORLD, scenario=msgspec.structs.replace(SCENARIO, redirect=[table]))


def test_redirections_are_checked_first_and_done_once_it_serves():
    steps = plan(with_redirect())
    assert [step.name for step in steps] == [StepName.CHECK_REDIRECT, *PLAIN[:-1], StepName.REDIRECT, PLAIN[-1]]
    assert steps[0].sentence == "see that clients can be redirected (dns)"
    assert steps[-2].sentence == "redirect clients to the substitute (dns)"


def test_forced_they_are_not_checked_first():
    assert names(replace(with_redirect(), force=True))[0] == StepName.STOP_RECEIVING


def test_a_cut_off_failover_redirects_at_its_end():
    world = replace(with_redirect(), begun=STARTED, domain=DomainState.RUNNING)
    assert names(world) == [StepName.WAIT_READY, StepName.REDIRECT, StepName.RECORD]
