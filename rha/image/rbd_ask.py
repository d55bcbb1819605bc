"""What a Ceph cluster says about an image: asked by a process of its own (rbd_child.py), with a limit of time."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Literal

import msgspec

from rha.decoding import from_json
from rha.errors import DeviceError, HostError, NetworkError, RhaError, StorageError
from rha.image.rbd import CONNECT_SECONDS

LIMIT_SECONDS = 45.0  # for the whole answer; an engine waits a minute for its welcome
PACKAGES = "apt-get install qemu-block-extra python3-rbd python3-rados"

Refusal = Literal["", "unreachable", "denied", "no pool", "other"]


class Question(msgspec.Struct, kw_only=True, frozen=True):
    """`make`: bytes of an image that is made when there is none; 0: none is made. `look_inside`: is anything in it?
    `how_to_reach`: also monitors and key. `shown`: the options by which a person's own commands come to the cluster."""

    conf: str
    user: str
    pool: str
    image: str
    make: int = 0
    look_inside: bool = False
    how_to_reach: bool = False
    shown: str = ""

    @property
    def access(self) -> str:
        return self.shown or f"--conf {self.conf} --id {self.user}"


class Answer(msgspec.Struct, kw_only=True):
    """`id` empty: there is no such image. `has_lock`: only one client at a time may write to it (exclusive-lock).
    `users`: who has it open for writing (its watchers): address and number of a client. `monitors`: `ADDRESS:PORT`;
    `key`: empty where the cluster asks for none."""

    refusal: Refusal = ""
    cause: str = ""
    cluster: str = ""
    id: str = ""
    bytes: int = 0
    has_lock: bool = False
    users: list[str] = []
    holds: bool = False
    monitors: list[str] = []
    key: str = ""


def why_no_driver() -> HostError | None:
    """The reason why this host has no way to such images, or None. Asks no cluster."""
    missing = [name for name in ("rados", "rbd") if importlib.util.find_spec(name) is None]
    if missing:
        return HostError("Ceph cannot be asked", cause=f"no Python module {missing[0]}", hint=PACKAGES)
    try:
        done = subprocess.run(["qemu-img", "create", "-f", "rbd", "-o", "help"], capture_output=True, check=False)
    except FileNotFoundError as error:
        return HostError("qemu-img is missing", cause=str(error), hint="apt-get install qemu-utils")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        return HostError("QEMU cannot open images in Ceph", cause=said, hint=PACKAGES)
    return None


def ask(question: Question) -> Answer:
    """Raises NetworkError when the cluster does not answer or knows no such user, DeviceError when it has no such pool,
    HostError when this host cannot ask, StorageError for what else it refuses."""
    words = [sys.executable, "-P", "-m", "rha.image.rbd_child"]  # -P: nothing is imported from where we happen to stand
    asked = msgspec.json.encode(question)
    try:
        done = subprocess.run(words, input=asked, capture_output=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _refused(question, Answer(refusal="unreachable", cause=f"no answer in {LIMIT_SECONDS:.0f} s")) from error
    try:
        found = from_json(done.stdout, Answer)
    except msgspec.MsgspecError as error:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        cause = said[-1] if said else f"it ended with {done.returncode}"
        raise HostError("Ceph cannot be asked", cause=cause, hint=PACKAGES) from error
    if found.refusal:
        raise _refused(question, found)
    return found


def _refused(question: Question, found: Answer) -> RhaError:
    access, name = question.access, f"{question.pool}/{question.image}"
    if found.refusal == "unreachable":
        what = f"the Ceph cluster of {name} does not answer"
        return NetworkError(what, cause=f"{found.cause}; limit: {CONNECT_SECONDS} s", hint=f"ceph -s {access}")
    if found.refusal == "denied":
        what = f"the Ceph cluster does not let client.{question.user} in"
        hint = f"ceph auth get client.{question.user}; look at user and keyring of the [[target]]"
        return NetworkError(what, cause=found.cause, hint=hint)
    if found.refusal == "no pool":
        what = f"the Ceph cluster has no pool {question.pool}"
        return DeviceError(what, cause=found.cause, hint=f"ceph osd pool ls {access}")
    caps = f"mon 'profile rbd' osd 'profile rbd pool={question.pool}'"
    hint = f"rbd info {name} {access}; the user needs the caps {caps}"
    return StorageError(f"Ceph refuses image {name}", cause=found.cause, hint=hint)
