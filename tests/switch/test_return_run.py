"""A switchback cut off or failing at each of its steps: it goes on, or all is as before."""

from __future__ import annotations

import json

import pytest

from rha.errors import NetworkError, StateError, StorageError, VmError
from rha.image import formats
from rha.redirect.base import replica_place
from rha.redirect.run import Standing
from rha.scenario import Appliance, Disk, Lease, Scenario
from rha.switch import progress as ledger
from rha.switch import return_run, returned, switches
from rha.switch.progress import SERVING, Image, Progress, trigger
from rha.switch.returning import Back
from rha.switch.runner import Effect
from rha.switch.switchback import BackStep, is_past_return
from rha.vm.null import NullHost

BEFORE = [step for step in BackStep if step not in ("hand-over", "release", "keep", "remove")]
AFTER = [step for step in BackStep if step not in BEFORE]
UNDOABLE = ["track", "revert-redirect", "stop-guest", "restore-guest"]


class Killed(BaseException):
    """As kill -9: nothing of ours runs any more."""


class Offered:
    peer, id, sizes = "master:1", "a", {"disk": 1 << 20}


class Appliance1:
    """Satisfies ReturnHost; the effects are recorded instead of done. `kill`, `broken`, `stuck`: the step at which it
    is killed, that fails, whose undo fails once."""

    def __init__(self, folder) -> None:
        self.folder, self.done, self.undone = folder, list[str](), list[str]()
        self.kill = self.broken = self.stuck = self.parted = ""
        self.scenario = Scenario(
            name="web",
            disk=[Disk(name="disk", device="/dev/a")],
            appliance=Appliance(address="a:1", ca="/a", certificate="/b", key="/c"),
            lease=Lease(endpoints=["http://e:1"]),
        )

    def receiver(self):
        return Offered()

    def why_not_overwrite(self):
        return self.parted

    def effect(self, name: str) -> Effect:
        def do(_limit: float) -> None:
            self.done.append(name)
            if name == self.kill:
                raise Killed
            if name == self.broken:
                raise StorageError(f"{name} broke")

        def undo() -> None:
            if self.stuck == name:
                self.stuck = ""
                raise StorageError(f"{name} cannot be taken back")
            self.undone.append(name)

        return Effect(do, undo if name in UNDOABLE else None)


class Vm(NullHost):
    def state(self, name):
        return "running"


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Appliance1(tmp_path)
    overlay = tmp_path / "disk.qcow2"
    formats.create(overlay, 1 << 20)
    cause = trigger("somebody", "dead")
    images = [Image(name="disk", path="/none", format="qcow2", overlay=str(overlay))]
    ledger.store(tmp_path, Progress(scenario="web", trigger=cause, state=SERVING, images=images, domain="rha-web"))
    place = replica_place("web", tmp_path)
    place.memory.mkdir()
    standing = Standing(state="applied", since=0.0, tables=[])
    (place.memory / "redirect.json").write_text(json.dumps({**standing_plain(standing)}))

    class Fake(Back):
        def __init__(self, *words, **more) -> None:
            super().__init__(*words, **more)
            self.effects = {step.value: made.effect(step.value) for step in BackStep}

    monkeypatch.setattr(return_run, "Back", Fake)
    return made


def standing_plain(standing: Standing) -> dict[str, object]:
    return {"state": standing.state, "since": standing.since, "tables": [], "version": 1}


def act(host):
    return return_run.run_switchback(host, Vm(), trigger("person", "repaired"))


def test_all_steps_in_order(host):
    progress = act(host)
    assert host.done == [step.value for step in BackStep]
    assert (progress.state, host.undone) == ("done", [])
    assert returned.load(host.folder) is None
    assert switches.read(host.folder)[-1].outcome == "done"


def test_a_master_that_wrote_alone_is_overwritten_only_on_a_person_s_word(host):
    host.parted = "SPLIT BRAIN: both wrote"
    with pytest.raises(StateError, match="wrote alone"):
        act(host)
    assert host.done == []
    cause = trigger("person", "its disks are saved")
    assert return_run.run_switchback(host, Vm(), cause, overwrite=True).state == "done"


@pytest.mark.parametrize("step", BEFORE)
def test_killed_before_the_hand_over_all_is_taken_back(host, step):
    host.kill = step
    with pytest.raises(Killed):
        act(host)
    assert returned.load(host.folder).steps[-1].name == step
    with pytest.raises(StateError, match="being taken back"):
        act(host)
    host.kill = ""
    done = list(host.done)
    assert return_run.go_on(host, Vm())
    assert host.done == done
    assert host.undone == [name for name in reversed(done) if name in UNDOABLE]
    assert returned.load(host.folder) is None
    assert ledger.load(host.folder).state == SERVING
    assert not return_run.go_on(host, Vm())
    assert act(host).state == "done"


@pytest.mark.parametrize("step", BEFORE)
def test_a_step_that_fails_is_taken_back_at_once(host, step):
    host.broken = step
    with pytest.raises(StorageError, match="broke"):
        act(host)
    assert host.undone == [name for name in reversed(host.done) if name in UNDOABLE]
    assert returned.load(host.folder) is None
    last = switches.read(host.folder)[-1]
    assert (last.outcome, last.why) == ("rolled-back", f"{step}: {step} broke")


def test_killed_between_the_overlays_removal_and_the_note_of_it(host):
    host.kill = "remove"
    with pytest.raises(Killed):
        act(host)
    (host.folder / "disk.qcow2").unlink()
    host.kill = ""
    assert return_run.go_on(host, Vm())
    assert returned.load(host.folder) is None


@pytest.mark.parametrize("step", AFTER)
@pytest.mark.parametrize("way", ["kill", "broken"])
def test_from_the_hand_over_it_only_goes_on(host, step, way):
    setattr(host, way, step)
    with pytest.raises((Killed, StorageError)):
        act(host)
    own = returned.load(host.folder)
    assert is_past_return(own.begun)
    host.kill = host.broken = ""
    before = host.done.index(step)
    assert return_run.go_on(host, Vm())
    assert host.undone == []
    assert host.done[before + 1 :] == [name.value for name in AFTER if AFTER.index(name) >= AFTER.index(step)]
    assert returned.load(host.folder) is None


def test_a_failure_past_return_is_told_once_however_often_it_is_tried(host):
    host.broken = "keep"
    for attempt in (act, lambda host: return_run.go_on(host, Vm()), lambda host: return_run.go_on(host, Vm())):
        with pytest.raises(StorageError):
            attempt(host)
    assert len(switches.read(host.folder)) == 1
    assert len([step for step in returned.load(host.folder).steps if step.name == "keep"]) == 1


def test_what_cannot_be_taken_back_has_its_name_and_is_tried_again(host):
    host.broken, host.stuck = "verify", "stop-guest"
    with pytest.raises(StorageError, match="cannot be taken back"):
        act(host)
    own = returned.load(host.folder)
    assert own.sentence() == (
        "rolling-back: verify: verify broke; to start the substitute again: stop-guest cannot be taken back"
    )
    assert return_run.go_on(host, Vm())
    assert switches.read(host.folder)[-1].why == "verify: verify broke"
    assert host.undone == ["restore-guest", "stop-guest", "revert-redirect", "track"]
    assert returned.load(host.folder) is None


def test_a_person_may_take_back_a_hand_over_that_nobody_has_heard(host):
    host.broken = "hand-over"
    with pytest.raises(StorageError):
        act(host)
    progress = return_run.take_back_by_hand(host, Vm(), "somebody")
    assert progress.sentence() == "rolled-back: broken off by somebody"
    assert host.undone == list(reversed(UNDOABLE))


def test_a_master_that_knows_is_not_taken_back_from(host):
    host.broken = "keep"
    with pytest.raises(StorageError):
        act(host)
    with pytest.raises(StateError, match="knows that it may boot"):
        return_run.take_back_by_hand(host, Vm(), "somebody")
    assert host.undone == []


class Silent(Appliance1):
    """Nobody receives; the master's engine has come, or not."""

    greeted = False

    def receiver(self):
        return None

    def has_greeted(self):
        return self.greeted


def handing_over(tmp_path, greeted: bool) -> Back:
    host = Silent(tmp_path)
    host.greeted = greeted
    own = returned.Returned(scenario="web", trigger=trigger("p", "r"), pause_begun=1.0)
    return Back(host, NullHost(), own, Progress(scenario="web", trigger=trigger("p", "r"), domain="rha-web"))


def test_the_engine_s_greeting_says_that_the_master_has_booted(tmp_path):
    back = handing_over(tmp_path, greeted=True)
    back.effects["hand-over"].do(1.0)
    assert back.progress.pause_seconds > 0


def test_a_hand_over_that_nobody_hears_is_not_taken_for_done(tmp_path):
    back = handing_over(tmp_path, greeted=False)
    with pytest.raises(NetworkError) as caught:
        back.effects["hand-over"].do(1.0)
    assert caught.value.what == "whether the master of web knows that it may boot is not known"
    assert "rha receive on the master once more" in caught.value.hint


class Guest(NullHost):
    """Obeys at the press number `obeys`; its process then needs `slow` looks to end."""

    def __init__(self, obeys: int, slow: int = 0) -> None:
        super().__init__()
        self.presses, self.obeys, self.slow, self.cut = 0, obeys, slow, 0

    def state(self, name):
        if self.cut:
            return "off"
        if self.presses < self.obeys:
            return "running"
        self.slow -= 1
        return "off" if self.slow < 0 else "running"

    def is_going_down(self, name):
        return self.presses >= self.obeys

    def press_power(self, name):
        assert not self.is_going_down(name), "pressed although it is going down: that would wait for ever"
        self.presses += 1

    def destroy(self, name):
        self.cut += 1


def stop(tmp_path, guest: Guest, *, force: bool = False, limit: float = 0.5) -> Back:
    own = returned.Returned(scenario="web", trigger=trigger("p", "r"))
    past = Progress(scenario="web", trigger=trigger("p", "r"), domain="rha-web")
    back = Back(Appliance1(tmp_path), guest, own, past, force=force)
    back.effects["stop-guest"].do(limit)
    return back


def test_a_guest_that_obeys_slowly_on_a_busy_disk(tmp_path):
    guest = Guest(obeys=1, slow=20)
    assert stop(tmp_path, guest).progress.stopped
    assert (guest.presses, guest.cut) == (1, 0)


def test_a_guest_that_does_not_shut_down(tmp_path):
    guest = Guest(obeys=1000)
    with pytest.raises(VmError) as caught:
        stop(tmp_path, guest)
    assert caught.value.what == "the guest of rha-web does not shut down"
    assert (guest.presses, guest.cut) == (1, 0)
    assert stop(tmp_path, guest, force=True).progress.stopped
    assert guest.cut == 1
