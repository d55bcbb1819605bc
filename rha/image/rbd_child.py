"""Answers one question about an image in a Ceph cluster; a process of its own (rha.image.rbd_ask.ask).

librados ends its process when it finds a fault in itself, and a call of it cannot be cut short: neither may happen to
an appliance with other scenarios. Question on standard input, answer on standard output, both JSON; what librados says
by itself goes to standard error.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import msgspec
import rados
import rbd

from rha.image.rbd_ask import Answer, Question, Refusal

PIECE_BYTES = 64 << 30  # of an image, asked for what it holds at a time: the first piece that holds something is enough

# Without the lock a dead client's writes could still land (rha.appliance.rbd_target); with the map it is known at once
# what an image holds.
FEATURES = (
    rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF
)


def answer(question: Question) -> Answer:
    """Raises rados.Error, rbd.Error for what it has no word for."""
    cluster = rados.Rados(conffile=question.conf, rados_id=question.user)
    try:
        cluster.connect()
    except rados.Error as error:
        kind: Refusal = "denied" if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM) else "unreachable"
        return Answer(refusal=kind, cause=str(error))
    try:
        ioctx = cluster.open_ioctx(question.pool)
    except rados.ObjectNotFound:
        return Answer(refusal="no pool", cause=f"the cluster has: {', '.join(sorted(cluster.list_pools())) or 'none'}")
    if question.make:
        _make(ioctx, question)
    found = Answer(cluster=cluster.get_fsid())
    try:
        # Read-only, which registers no watcher: those that are found are others.
        with rbd.Image(ioctx, question.image, read_only=True) as image:
            found.id, found.bytes = image.id(), image.size()
            found.has_lock = bool(image.features() & rbd.RBD_FEATURE_EXCLUSIVE_LOCK)
            found.users = sorted(f"{one['addr']} client.{one['id']}" for one in image.watchers_list())
            found.holds = question.look_inside and _holds(image)
    except rbd.ImageNotFound:
        return found
    if question.how_to_reach:
        found.monitors, found.key = _monitors(cluster), _key(cluster, question.user)
    return found


def _make(ioctx: Any, question: Question) -> None:
    """What is there already stays as it is, and is judged by its look."""
    try:
        rbd.RBD().create(ioctx, question.image, question.make, old_format=False, features=FEATURES)
    except rbd.ImageExists:
        return


def _holds(image: Any) -> bool:
    """Has any of its objects ever been written, its parent's too?"""
    found: list[int] = []
    size = image.size()
    for at in range(0, size, PIECE_BYTES):
        image.diff_iterate(at, min(PIECE_BYTES, size - at), None, lambda offset, *_: found.append(offset))
        if found:
            return True
    return False


def _monitors(cluster: Any) -> list[str]:
    """`ADDRESS:PORT` of each, as they are now."""
    asked = msgspec.json.encode({"prefix": "mon dump", "format": "json"}).decode()
    status, said, error = cluster.mon_command(asked, b"")
    if status:
        raise rados.Error(error or os.strerror(-status))
    monitors = msgspec.json.decode(said)["mons"]
    return [address["addr"] for one in monitors for address in one["public_addrs"]["addrvec"]]


def _key(cluster: Any, user: str) -> str:
    """The user's key, from where librados has it; empty where the cluster asks for none."""
    if key := cluster.conf_get("key"):
        return str(key)
    if place := cluster.conf_get("keyfile"):
        with open(place) as file:
            return file.read().strip()
    for place in (cluster.conf_get("keyring") or "").split(","):
        if key := _key_in(place.strip(), user):
            return key
    return ""


def _key_in(path: str, user: str) -> str:
    """A keyring is an INI file: `[client.USER]`, `key = …`."""
    try:
        with open(path) as file:
            lines = [line.strip() for line in file]
    except OSError:
        return ""
    section = ""
    for line in lines:
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == f"client.{user}" and line.partition("=")[0].strip() == "key":
            return line.partition("=")[2].strip()
    return ""


def main() -> None:
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    try:
        found = answer(question)
    except (rados.Error, rbd.Error) as error:
        found = Answer(refusal="other", cause=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(found))
    sys.stdout.flush()
    os._exit(0)  # librados's own end may wait for a cluster that is gone


if __name__ == "__main__":
    main()
