"""An image that lies in a Ceph cluster (rha.image.rbd). It is made when the scenario begins, or an empty one of that
name is taken; which one it was is kept, and another one under the same name is refused.

An image that holds anything is refused, unlike a device: a device without content cannot be told from another, but an
image in Ceph knows whether it was ever written, and to make a new one costs nothing. So it begins as one of zeros.

**Who else has it open.** Ceph gives an image away to as many writers as come: QEMU takes no lock, and the exclusive
lock wanders to whoever writes next. But every writer registers as a watcher. Before we open an image there must be
none, but for those that were our own storage daemon's: noted while it ran, and dead when we come here again, as its
folder's lock is ours. The watch of a process that was killed ends after 30 s (osd_client_watch_timeout), and so does
that of a substitute whose power was cut: others are waited for a little longer than that. Whoever comes later than we
is not seen.

The exclusive lock is asked for all the same, for what a killed daemon had on its way: the next one takes the lock over,
by which Ceph shuts the dead one out, so that nothing of it lands on what is written then.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import msgspec

from rha.appliance import catalog
from rha.appliance.config import Target
from rha.errors import DeviceError, RhaError, StateError
from rha.image import rbd
from rha.image.rbd import Rbd
from rha.image.rbd_ask import Answer, Question, ask, why_no_driver
from rha.units import show_bytes

USERS_SECONDS = 40.0
_POLL_SECONDS = 1.0


def check(path: Path, target: Target, size: int) -> None:
    """Raises why a disk of `size` bytes cannot begin there: HostError, ConfigError, NetworkError, DeviceError;
    StateError when it has an image in another place. Changes nothing in Ceph."""
    _refuse_other_place(path)
    if missing := why_no_driver():
        raise missing
    rbd.copy_conf(Path(target.conf), rbd.conf_of(path), target.user, target.keyring)
    question = _question(path, target)
    found = ask(msgspec.structs.replace(question, look_inside=True))
    if found.id:
        _refuse_unfit(target, found, size)
        _wait_unused(path, question, found, set())


def _refuse_other_place(path: Path) -> None:
    others = [other for other in path.parent.glob(f"{path.stem}.*") if other.suffix in (".qcow2", ".raw")]
    if others:
        raise StateError(
            f"{others[0]} is there already",
            cause="an image of this disk in another place",
            hint=f"move {path.parent.parent} aside",
        )


def _refuse_unfit(target: Target, found: Answer, size: int) -> None:
    access = _access(target)
    if found.bytes != size:
        cause = f"it has {show_bytes(found.bytes)} ({found.bytes} bytes), the master's disk {show_bytes(size)} ({size})"
        hint = f"rbd rm {target.rbd} {access}, if nobody needs it: one that fits is made"
        raise DeviceError(f"image {target.rbd} has another size", cause=cause, hint=hint)
    if not found.has_lock:
        raise _no_lock(target)
    if found.holds:
        hint = f"name another image; or rbd rm {target.rbd} {access}, if nobody needs it"
        raise DeviceError(f"image {target.rbd} is not empty", cause="something was written to it", hint=hint)


def _no_lock(target: Target) -> DeviceError:
    name = f"{target.rbd} exclusive-lock {_access(target)}"
    cause = "without the feature exclusive-lock the last writes of a daemon that was killed could land too late"
    return DeviceError(f"image {target.rbd} has no lock", cause=cause, hint=f"rbd feature enable {name}")


def begin(path: Path, target: Target, size: int) -> None:
    """Takes an image, making it when there is none; `check` has found nothing against it. Raises as `check`."""
    found = ask(msgspec.structs.replace(_question(path, target), make=size, look_inside=True))
    _refuse_unfit(target, found, size)
    pool, _, image = target.rbd.partition("/")
    conf = str(rbd.conf_of(path).absolute())
    catalog.save(path, Rbd(pool=pool, image=image, user=target.user, conf=conf, id=found.id, cluster=found.cluster))


def go_on(path: Path, target: Target, size: int) -> None:
    """Raises DeviceError when the image is not, or is not any more, the one that was begun on, or somebody else has it;
    else as `check`. The copy of ceph.conf is made anew."""
    if not path.exists():
        cause = "the scenario was begun with another place for it"
        raise StateError(f"{target.rbd} does not hold the image", cause=cause, hint=f"move {path.parent.parent} aside")
    if missing := why_no_driver():
        raise missing
    known = rbd.load(path)
    rbd.copy_conf(Path(target.conf), rbd.conf_of(path), target.user, target.keyring)
    question = _question(path, target)
    found = ask(question)
    if refusal := why_another(target, known, found, size):
        raise refusal
    _wait_unused(path, question, found, set(catalog.load(_note(path), list[str]) or []))


def look(path: Path, target: Target) -> str:
    """How it stands with a target, in a sentence; `path`: the file that stands for its image once it was begun. Changes
    nothing. Raises as `check` and `go_on`, as far as that can be said without the disk's size."""
    if missing := why_no_driver():
        raise missing
    known = rbd.load(path) if path.exists() else None
    with tempfile.TemporaryDirectory(prefix="rha-ceph-") as folder:
        stand_in = Path(folder, path.name)
        rbd.copy_conf(Path(target.conf), rbd.conf_of(stand_in), target.user, target.keyring)
        found = ask(msgspec.structs.replace(_question(stand_in, target), look_inside=known is None))
    if known:
        if refusal := why_another(target, known, found, 0):
            raise refusal
        return f"RBD {target.rbd} holds the image, {show_bytes(found.bytes)}"
    if not found.id:
        return f"RBD {target.rbd} is made when the master comes"
    _refuse_unfit(target, found, found.bytes)
    return f"RBD {target.rbd} is there and empty, for a disk of exactly {found.bytes} bytes"


def why_another(target: Target, known: Rbd, found: Answer, size: int) -> RhaError | None:
    """The reason why what is found is not the image that was begun on; None: it is."""
    hint = f"rbd info {target.rbd} {_access(target)}"
    if not found.id:
        return DeviceError(f"image {target.rbd} is missing", cause=f"cluster {found.cluster} has none", hint=hint)
    if (found.cluster, target.rbd, found.id) != (known.cluster, known.name, known.id):
        cause = f"the image was begun on {known.name}, id {known.id} in cluster {known.cluster}; this has id {found.id}"
        return DeviceError(f"{target.rbd} is another image", cause=f"{cause} in {found.cluster}", hint=hint)
    if not found.has_lock:
        return _no_lock(target)
    if found.bytes < size:
        cause = f"{show_bytes(found.bytes)}, the master's disk has {show_bytes(size)}"
        return DeviceError(f"image {target.rbd} has become too small", cause=cause, hint=hint)
    return None


def _wait_unused(path: Path, question: Question, found: Answer, own: set[str]) -> None:
    """Until nobody else has the image open. Raises DeviceError when that does not come."""
    until = time.monotonic() + USERS_SECONDS
    while others := sorted(set(found.users) - own):
        if time.monotonic() > until:
            name = f"{question.pool}/{question.image}"
            raise DeviceError(
                f"image {name} is in use",
                cause=f"opened by {', '.join(others)}, {USERS_SECONDS:.0f} s long",
                hint=f"rbd status {name} {question.access}",
            )
        time.sleep(_POLL_SECONDS)
        found = ask(question)


def note_users(path: Path) -> None:
    """Keeps as whom our storage daemon, which has just opened the image, is known to Ceph. Raises as `ask`."""
    known = rbd.load(path)
    found = ask(Question(conf=known.conf, user=known.user, pool=known.pool, image=known.image))
    catalog.save(_note(path), found.users)


def _note(path: Path) -> Path:
    return path.with_suffix(".users")


def _question(path: Path, target: Target) -> Question:
    pool, _, image = target.rbd.partition("/")
    conf = str(rbd.conf_of(path).absolute())
    return Question(conf=conf, user=target.user, pool=pool, image=image, shown=_access(target))


def _access(target: Target) -> str:
    """Of a person's own commands, for hints."""
    keyring = f" --keyring {target.keyring}" if target.keyring else ""
    return f"--conf {target.conf} --id {target.user}{keyring}"
