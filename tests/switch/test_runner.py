"""Steps and their way back, with effects of the test: what is on disk at every moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from rha.errors import StorageError
from rha.switch import progress as ledger
from rha.switch import switches
from rha.switch.plan import Step
from rha.switch.progress import FAILED, ROLLED_BACK, ROLLING_BACK, Progress, Trigger
from rha.switch.runner import Effect, Run

STEPS = [
    Step("one", "do one", 1, undo="take one back"),
    Step("two", "do two", 1),
    Step("three", "do three", 1, "undo 3"),
]


class World:
    """Remembers what was done; a word in `broken` raises."""

    def __init__(self, folder: Path) -> None:
        self.did: list[str] = []
        self.broken: set[str] = set()
        progress = Progress(scenario="web", trigger=Trigger(by="eve", reason="test", decided=1.0))
        effects = {step.name: self.effect(step.name) for step in STEPS}
        self.run = Run(folder, progress, effects)

    def effect(self, name: str) -> Effect:
        return Effect(lambda _: self.note(name), lambda: self.note(f"-{name}"))

    def note(self, word: str) -> None:
        self.did.append(word)
        if word in self.broken:
            raise StorageError(f"{word} broke")

    def go(self) -> None:
        for step in STEPS:
            self.run.do(step)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_all_that_has_begun_is_taken_back_last_first(world: World, tmp_path: Path) -> None:
    world.broken = {"three"}
    with pytest.raises(StorageError):
        world.go()
    assert ledger.load(tmp_path).state == FAILED
    world.run.roll_back("three broke")
    assert world.did == ["one", "two", "three", "-three", "-one"], "a failed step may be half done; two has no undo"
    assert world.run.progress.state == ROLLED_BACK


def test_what_cannot_be_taken_back_is_named_and_tried_again(world: World, tmp_path: Path) -> None:
    world.go()
    world.broken = {"-one"}
    with pytest.raises(StorageError):
        world.run.roll_back("the master has gone")
    past = ledger.load(tmp_path)
    assert past.sentence() == "rolling-back: the master has gone; to take one back: -one broke"
    assert past.state == ROLLING_BACK
    again = Run(tmp_path, past, world.run.effects)
    world.broken = set()
    again.roll_back("the master has gone")
    assert world.did[-3:] == ["-three", "-one", "-one"], "what is taken back already is passed over"


def test_history_survives_a_torn_line(world: World, tmp_path: Path) -> None:
    world.go()
    switches.record(tmp_path, world.run.progress, 0.0)
    with (tmp_path / switches.FILE).open("ab") as file:
        file.write(b'{"kind": "failover", "by"')
    switches.note(tmp_path, "discard", "eve", "over", 5.0, "gone")
    kinds = [(one.kind, one.by, one.outcome) for one in switches.read(tmp_path)]
    assert kinds == [("failover", "eve", "running"), ("discard", "eve", "done")]
    first = switches.lines(switches.read(tmp_path)[0])
    assert "failover by eve (test): running" in first[0]
    assert [line.partition("  one: ")[2] for line in first[2:3]] == ["do one"]
