"""What a test boot does, what it refuses, what it asks, and when it is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import msgspec
import pytest

from rha.errors import RhaError
from rha.scenario import Appliance, BootCheck, BootTest, Check, Disk, Forward, Guest, Network, Scenario, Size, Vm
from rha.switch.bootplan import (
    HOST_BYTES,
    Due,
    Scene,
    address_of,
    describe,
    domain_of_test,
    due,
    guest_ports,
    plan,
    ready_check,
    with_port,
)
from rha.vm.base import DomainState, domain_name

SSH = BootCheck(kind="tcp", address="web.example:22")
SCENARIO = Scenario(
    name="web",
    disk=[Disk(name="root", device="/dev/vda"), Disk(name="data", device="/dev/vdb")],
    appliance=Appliance(address="a:1", ca="/a", certificate="/b", key="/c"),
    vm=Vm(ready=Check(kind="http", address="http://web.example/health")),
    test=BootTest(check=[SSH, BootCheck(kind="console", address="login:"), BootCheck(kind="agent")]),
)
SCENE = Scene(SCENARIO, "now", DomainState.ABSENT, None, 1 << 40)


def with_test(**words: object) -> Scenario:
    return msgspec.structs.replace(SCENARIO, test=msgspec.structs.replace(SCENARIO.test, **words))


def test_the_steps_and_what_takes_them_back() -> None:
    steps = plan(SCENE)
    assert [step.name for step in steps] == [
        "open-point", "adapt-guest", "define-domain", "start-domain", "wait-ready", "check"
    ]  # fmt: skip
    assert [bool(step.undo) for step in steps] == [True, False, True, True, False, False]
    assert steps[0].sentence.startswith("open the newest point of root, data as overlays")
    assert steps[4].sentence == "wait until the guest answers http port 80"
    assert steps[5].sentence == "ask the guest: tcp port 22, console 'login:', agent"


def test_the_guests_address_is_the_tests_else_the_substitutes() -> None:
    vm = Vm(guest=Guest(addresses=["2001:db8::9/64", "192.0.2.9/24"]))
    scenario = msgspec.structs.replace(SCENARIO, vm=vm, test=BootTest())
    assert address_of(scenario) == "192.0.2.9/24"
    assert address_of(msgspec.structs.replace(scenario, test=BootTest(address="198.51.100.9/24"))) == "198.51.100.9/24"
    assert address_of(msgspec.structs.replace(scenario, vm=Vm())) == ""


def test_who_asks_nothing_is_told_so() -> None:
    silent = msgspec.structs.replace(SCENARIO, vm=Vm(), test=BootTest())
    assert plan(replace(SCENE, scenario=silent))[-1].sentence.startswith("no check asks the guest anything")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ({"why_switched": "failover serving: domain rha-web"}, 9, "cannot be tested now"),
        ({"domain": DomainState.RUNNING}, 9, "is there already"),
        ({"domain": DomainState.OFF}, 9, "is there already"),
        ({"free_memory": (1 << 30) + HOST_BYTES - 1}, 8, "not enough memory"),
    ],
)
def test_refusals(words: dict[str, object], code: int, said: str) -> None:
    with pytest.raises(RhaError, match=said) as caught:
        plan(replace(SCENE, **words))
    assert (caught.value.code, bool(caught.value.cause), bool(caught.value.hint)) == (code, True, True)


def test_less_memory_for_a_test_is_enough_for_it() -> None:
    small = with_test(memory=Size(256 << 20))
    assert plan(replace(SCENE, scenario=small, free_memory=(256 << 20) + HOST_BYTES))


def test_no_scenario_can_have_a_substitute_of_that_name() -> None:
    """`web-test` is a scenario's name, `web.test` is none."""
    assert domain_of_test("web") == "rha-web.test"
    assert domain_of_test("web") != domain_name("web-test")


def test_the_check_for_ready_goes_through_the_substitutes_forward() -> None:
    network = Network(kind="user", forward=[Forward(host_port=8443, guest_port=443)])
    for kind, address, port in (
        ("tcp", "127.0.0.1:8443", 443),
        ("http", "https://127.0.0.1:8443/", 443),
        ("tcp", "web.example:22", 22),
        ("sql", "postgresql://rha@db.example/shop", 5432),
    ):
        vm = Vm(ready=Check(kind=kind, address=address), network=network)  # type: ignore[arg-type]
        scenario = msgspec.structs.replace(SCENARIO, vm=vm, test=BootTest())
        assert guest_ports(scenario) == [port]


@pytest.mark.parametrize(("kind", "address"), [("ping", "web.example"), ("script", "look"), ("unit", "x.service")])
def test_what_would_ask_the_master_is_not_asked(kind: str, address: str) -> None:
    scenario = msgspec.structs.replace(SCENARIO, vm=Vm(ready=Check(kind=kind, address=address)))  # type: ignore[arg-type]
    assert ready_check(scenario) is None


def test_another_port_of_the_same_question() -> None:
    asked = BootCheck(kind="sql", address="postgresql://rha@[2001:db8::1]:6432/shop?sslmode=require")
    assert with_port(asked, 5432).address == "postgresql://rha@[2001:db8::1]:5432/shop?sslmode=require"
    assert with_port(SSH, 2222).address == "web.example:2222"
    assert describe(with_port(SSH, 2222)) == "tcp port 2222"


def test_ports_for_scripts_are_forwarded_too() -> None:
    assert guest_ports(with_test(ports=[9000, 22])) == [22, 80, 9000]


SUNDAY = datetime(2026, 11, 22, 2, 30)
WEEKLY = BootTest(days="sun", begin="02:00", end="05:00")


def epoch(moment: datetime) -> float:
    return moment.timestamp()


def test_due_in_its_window_once() -> None:
    assert due(WEEKLY, SUNDAY, None, 0.0) == Due(True)
    assert due(WEEKLY, SUNDAY, epoch(SUNDAY - timedelta(hours=1)), 0.0) == Due(True), "asked for by hand, before it"
    assert due(WEEKLY, SUNDAY, epoch(SUNDAY - timedelta(minutes=10)), 0.0) == Due(False)
    assert due(WEEKLY, SUNDAY - timedelta(minutes=31), None, epoch(SUNDAY)) == Due(False)


def test_missed_is_said_until_there_was_one() -> None:
    later = SUNDAY + timedelta(days=3)
    missed = due(WEEKLY, later, epoch(SUNDAY - timedelta(days=7)), 0.0)
    assert (missed.now, missed.missed) == (False, "no test has begun in its window of Sun 2026-11-22 02:00 to 05:00")
    assert due(WEEKLY, later, epoch(SUNDAY + timedelta(days=1)), 0.0).missed == ""
    assert due(WEEKLY, later, None, epoch(SUNDAY)).missed == "", "the schedule is younger than the window"


def test_over_midnight() -> None:
    nightly = BootTest(days="mon-sun", begin="23:00", end="01:00")
    late = datetime(2026, 11, 23, 0, 30)
    assert due(nightly, late, None, 0.0).now
    assert not due(nightly, late, epoch(late - timedelta(hours=1)), 0.0).now
    assert due(nightly, late + timedelta(hours=1), epoch(late - timedelta(days=1)), 0.0).missed


def test_without_days_nothing_is_due() -> None:
    assert due(BootTest(), SUNDAY, None, 0.0) == Due(False)
