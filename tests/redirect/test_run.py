"""Redirections together: order, roll-back, where they stand; real scripts and a real BIND."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from rha.errors import NetworkError, RhaError, StateError
from rha.redirect import run
from rha.redirect.base import Act, Place
from rha.redirect.script import Script
from rha.scenario import Duration, Redirect, RewriteDns, RunScript
from tests.redirect.named import Named

pytestmark = pytest.mark.root
WWW = "www.example.org"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "scripts").mkdir(mode=0o755)
    return Place(scenario="web", side="replica", memory=tmp_path / "memory", scripts=tmp_path / "scripts")


@pytest.fixture
def script(place: Place, tmp_path: Path) -> Callable[..., RunScript]:
    """`script("a", "exit 1")`; each run writes its name and act into `calls`."""

    def make(name: str, text: str = "", **words: object) -> RunScript:
        (place.scripts / name).write_text(f'#!/bin/sh\necho "{name} $RHA_ACT" >> {tmp_path}/calls\n{text}\n')
        (place.scripts / name).chmod(0o755)
        return RunScript(run=name, user="root", limit=Duration(10), **words)

    return make


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[str]]:
    def read() -> list[str]:
        path = tmp_path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return read


def dns(named: Named, **words: object) -> RewriteDns:
    table = {"servers": [named.address], "zone": "example.org", "name": "www", "key": str(named.key),
             "master": ["192.0.2.10", "2001:db8::10"], "replica": ["192.0.2.20"]}  # fmt: skip
    return RewriteDns(**{**table, **words})


def test_order_there_and_back(place: Place, script, calls, named: Named) -> None:
    tables: list[Redirect] = [script("last"), dns(named), script("first", at="before"), script("other", side="master")]
    run.apply(tables, place)
    assert calls() == ["first apply", "last apply"]
    assert run.standing(place).sentence() == "redirections applied"
    assert "answers www.example.org." in run.verify(tables, place)[1]
    run.revert(place)
    assert calls() == ["first revert", "last revert"]
    assert named.dig(WWW) == ["192.0.2.10"]
    assert run.standing(place) is None
    assert run.revert(place) == ["nothing was redirected"]


def test_a_check_that_fails_changes_nothing_and_names_all(place: Place, script, calls, named: Named) -> None:
    tables = [script("a"), dns(named, name="absent"), dns(named, key="/no/such.key"), script("b")]
    with pytest.raises(RhaError, match="nothing was changed") as refused:
        run.apply(tables, place)
    assert len(refused.value.cause.splitlines()) == 2
    assert calls() == []
    assert run.standing(place) is None


def test_a_veto_before_anything(place: Place, script, calls, named: Named) -> None:
    serial = named.serial()
    with pytest.raises(StateError, match="vetoes") as veto:
        run.apply([dns(named), script("no", "exit 1", at="before")], place)
    assert "everything was reverted" in veto.value.cause
    assert named.serial() == serial
    assert run.standing(place) is None


def test_the_last_fails_and_all_before_are_taken_back(place: Place, script, calls, named: Named) -> None:
    with pytest.raises(StateError, match="script no failed") as failed:
        run.apply([script("a", at="before"), dns(named), script("no", "exit 1")], place)
    assert "everything was reverted" in failed.value.cause
    assert calls() == ["a apply", "no apply", "a revert"]
    assert (named.dig(WWW), named.ttl(WWW)) == (["192.0.2.10"], 300)
    assert run.standing(place) is None


def test_what_cannot_be_taken_back_has_a_name(place: Place, script, named: Named) -> None:
    """The DNS server dies between the rewriting and the failure of what follows."""
    pid = named.folder / "named.pid"
    stop = script("stop", f"kill $(cat {pid}); while [ -e {pid} ]; do sleep 0.1; done; exit 1")
    with pytest.raises(StateError, match="script stop failed") as failed:
        run.apply([dns(named), stop], place)
    assert "NOT all reverted" in failed.value.cause
    past = run.standing(place)
    assert past is not None
    assert past.state == run.FAILED
    assert "cannot be reached" in past.why
    named.stop()
    named.start()
    run.revert(place)
    assert named.dig(WWW) == ["192.0.2.10"]
    assert run.standing(place) is None


def test_applied_again_and_failing_takes_nothing_from_the_clients(place: Place, script, named: Named) -> None:
    tables = [dns(named), script("a")]
    run.apply(tables, place)
    (place.scripts / "a").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(StateError, match="failed") as failed:
        run.apply(tables, place)
    assert "the others stay applied" in failed.value.cause
    assert named.dig(WWW) == ["192.0.2.20"]
    assert run.standing(place).state == run.FAILED
    run.revert(place)
    assert named.dig(WWW) == ["192.0.2.10"]


def test_an_edited_scenario_reverts_what_was_done(place: Place, named: Named) -> None:
    run.apply([dns(named)], place)
    edited: list[Redirect] = [dns(named, replica=["192.0.2.99"])]
    with pytest.raises(StateError, match="have been edited"):
        run.apply(edited, place)
    run.revert(place)
    assert named.dig(WWW) == ["192.0.2.10"]
    run.apply(edited, place)
    assert named.dig(WWW) == ["192.0.2.99"]


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("onward", [True, False])
def test_cut_off_it_goes_on_or_back(place: Place, script, named: Named, monkeypatch, after, onward) -> None:
    real = Script.apply

    def apply(self, deadline):
        if after:
            real(self, deadline)
        raise Cut

    tables = [dns(named), script("a")]
    monkeypatch.setattr(Script, "apply", apply)
    with pytest.raises(Cut):
        run.apply(tables, place)
    monkeypatch.setattr(Script, "apply", real)
    assert run.standing(place).state == run.APPLYING
    if onward:
        run.apply(tables, place)
        assert run.standing(place).state == run.APPLIED
    run.revert(place)
    assert (named.dig(WWW), named.ttl(WWW)) == (["192.0.2.10"], 300)
    assert list(place.memory.glob("*.json")) == []


def test_one_at_a_time(place: Place, named: Named) -> None:
    place.memory.mkdir()
    with (place.memory / "redirect.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StateError, match="are being changed"):
            run.apply([dns(named)], place)


def test_plan_asks_nobody(place: Place) -> None:
    table = RewriteDns(
        servers=["192.0.2.53"], zone="example.org", name="www", master=["192.0.2.10"], replica=["192.0.2.20"]
    )
    assert run.plan([table], place, Act.APPLY) == ["rewrite www.example.org. to A 192.0.2.20 at 192.0.2.53"]
    assert run.plan([table], place, Act.REVERT) == []


def test_a_server_that_is_down_at_verify(place: Place, named: Named) -> None:
    run.apply([dns(named)], place)
    named.stop()
    with pytest.raises(NetworkError, match="clients are not redirected"):
        run.verify([dns(named)], place)
