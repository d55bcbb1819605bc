"""A scenario's redirections together: all are checked before one is changed; when one fails, those before it are taken
back. Where they stand is on disk, under one of four names:

| state | means |
|---|---|
| `applying` | being done, or cut off in it: apply goes on, revert takes back |
| `applied` | clients go to the substitute |
| `reverting` | being taken back, or cut off in it: revert goes on |
| `failed` | some could be neither done nor taken back; `why` names them |

No file: nothing is redirected. The tables are kept with the state, so that an edited scenario cannot revert what it has
not done.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from rha.errors import RhaError, StateError
from rha.redirect.base import Act, Memory, Place, Redirection, Sentences
from rha.redirect.kinds import in_order, in_order_back
from rha.scenario import Redirect

Say = Callable[[str], None]
APPLYING, APPLIED, REVERTING, FAILED = "applying", "applied", "reverting", "failed"
_FILE, _LOCK = "redirect.json", "redirect.lock"
_log = logging.getLogger(__name__)


class Standing(msgspec.Struct, kw_only=True):
    """The file. `since`: this host's clock. `why` is empty unless failed."""

    version: int = 1
    state: str
    why: str = ""
    since: float
    tables: list[Redirect]

    def sentence(self) -> str:
        return f"redirections {self.state}: {self.why}" if self.why else f"redirections {self.state}"


def standing(place: Place) -> Standing | None:
    """Where the redirections stand; None: nothing is redirected. Raises StorageError when that cannot be read."""
    return Memory(place.memory / _FILE).load(Standing)


def plan(tables: list[Redirect], place: Place, act: Act) -> Sentences:
    """What the act would do, in order; nothing is asked or changed."""
    past = standing(place)
    if act is Act.REVERT:
        return [part.describe(act) for part in in_order_back(past.tables, place)] if past else []
    return [part.describe(act) for part in in_order(tables, place)]


def prepare(tables: list[Redirect], place: Place) -> None:
    """Loads what the first act would have to load: a third of a second with netlink and DNS. Asks and changes nothing.
    Raises RhaError where that cannot be."""
    for part in in_order(tables, place):
        part.prepare()


def check(tables: list[Redirect], place: Place, but: Collection[str] = ()) -> Sentences:
    """Everything that speaks against `apply` at once; changes nothing. `but`: types that are left out.

    Raises RhaError.
    """
    return _checked([part for part in in_order(tables, place) if part.type not in but])


def _checked(parts: list[Redirection]) -> Sentences:
    said, failures = _each(parts, Act.CHECK)
    if failures:
        raise _joined("the redirections cannot be applied; nothing was changed", failures)
    return said


def apply(tables: list[Redirect], place: Place, say: Say = _log.info) -> Sentences:
    """Checks, applies and verifies all. Done already: done again, which changes nothing.

    Raises RhaError: nothing was changed, or it was taken back, or (state `failed`) the error names what was not.
    """
    with _alone(place):
        past = standing(place)
        _must_be_same(past, tables, place)
        parts, done = in_order(tables, place), list[Redirection]()
        for line in _checked(parts):
            say(line)
        was_applied = bool(past and past.state == APPLIED)
        _store(place, APPLYING, tables)
        try:
            said = [line for part in parts for line in _applied(part, done, say)]
            said += [line for part in parts for line in _verified(part, say)]
        except RhaError as error:
            raise _stopped(error, None if was_applied else done, tables, place, say) from error
        _store(place, APPLIED, tables)
    return said


def revert(place: Place, say: Say = _log.info) -> Sentences:
    """As it was before `apply`. All are tried, also when one fails; may be repeated.

    Raises RhaError naming those that could not be reverted; they are remembered.
    """
    if not place.memory.exists():
        return ["nothing was redirected"]
    with _alone(place):
        past = standing(place)
        if past is None:
            return ["nothing was redirected"]
        _store(place, REVERTING, past.tables)
        said, failures = _each(in_order_back(past.tables, place), Act.REVERT, say)
        _ended(place, past.tables, failures)
    if failures:
        raise _joined("some redirections are not reverted", failures)
    return said


def forget(place: Place) -> Sentences:
    """Gives up what could not be reverted: what it was is returned, for a person to put back, and then removed."""
    with _alone(place):
        past = standing(place)
        files = sorted(place.memory.glob("*-*.json"))
        said = [f"forgotten: {path.name}: {' '.join(path.read_text().split())}" for path in files]
        for path in files:
            path.unlink()
        Memory(place.memory / _FILE).clear()
    return [*([past.sentence()] if past else []), *said]


def verify(tables: list[Redirect], place: Place) -> Sentences:
    """Asks where clients ask. Raises RhaError with everything that is not as it should be."""
    past = standing(place)
    said, failures = _each(in_order(past.tables if past else tables, place), Act.VERIFY)
    if failures:
        raise _joined("clients are not redirected", failures)
    return said


def _applied(part: Redirection, done: list[Redirection], say: Say) -> Sentences:
    said = part.do(Act.APPLY)
    done.append(part)
    for line in said:
        say(line)
    return said


def _verified(part: Redirection, say: Say) -> Sentences:
    said = part.do(Act.VERIFY)
    for line in said:
        say(line)
    return said


def _stopped(
    error: RhaError, done: list[Redirection] | None, tables: list[Redirect], place: Place, say: Say
) -> RhaError:
    """The error with what became of those that were done before it; what an act undid of itself is in its own cause.

    `done` None: all were applied before, and clients are there: nothing is taken from them.
    """
    said, failures = _each(list(reversed(done or [])), Act.REVERT, say)
    left = bool(failures) or bool(list(place.memory.glob("*-*.json")))
    _ended(place, tables, failures, f"{error.what}; {error.cause}" if left else "")
    outcome = "NOT all reverted" if left else "everything was reverted"
    parts = [error.cause, outcome if done is not None else "the others stay applied"]
    parts += [*said, *(failure.what for failure in failures)]
    return type(error)(error.what, cause="\n       ".join(filter(None, parts)), hint=error.hint, code=error.code)


def _ended(place: Place, tables: list[Redirect], failures: list[RhaError], why: str = "") -> None:
    if failures or why:
        _store(place, FAILED, tables, "; ".join([*filter(None, [why]), *(failure.what for failure in failures)]))
    else:
        Memory(place.memory / _FILE).clear()


def _each(parts: list[Redirection], act: Act, say: Say = lambda _: None) -> tuple[Sentences, list[RhaError]]:
    said: Sentences = []
    failures: list[RhaError] = []
    for part in parts:
        try:
            for line in part.do(act):
                said.append(line)
                say(line)
        except RhaError as error:
            failures.append(error)
    return said, failures


def _joined(what: str, failures: list[RhaError]) -> RhaError:
    """Several as one, with the code of the first."""
    causes = [f"{failure.what}: {failure.cause}" if failure.cause else failure.what for failure in failures]
    hint = next((failure.hint for failure in failures if failure.hint), "")
    return type(failures[0])(what, cause="\n       ".join(causes), hint=hint, code=failures[0].code)


def _must_be_same(past: Standing | None, tables: list[Redirect], place: Place) -> None:
    if past and past.tables != tables:
        cause = f"they are {past.state} since {time.strftime('%F %T', time.localtime(past.since))}, as they were then"
        hint = f"rha redirect revert {place.scenario}, then apply"
        raise StateError("the scenario's redirections have been edited", cause=cause, hint=hint)


def _store(place: Place, state: str, tables: list[Redirect], why: str = "") -> None:
    Memory(place.memory / _FILE).save(Standing(state=state, why=why, since=time.time(), tables=tables))


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    """One at a time, over all processes; the kernel lets go when a process dies."""
    place.memory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path: Path = place.memory / _LOCK
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = f"the redirections of {place.scenario} are being changed"
            raise StateError(what, cause=f"{path} is locked") from error
        yield
