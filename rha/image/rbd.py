"""An image that lies in a Ceph cluster: QEMU's block layer reads and writes it (driver rbd, Debian's qemu-block-extra).

In the scenario's folder a small file stands for it, `images/DISK.rbd`, with the format `rbd`: where the image is, which
one it is, and as whom it is opened. Beside it lies `images/DISK.ceph.conf`, a copy of the administrator's ceph.conf
with what must hold for us: QEMU knows no other way to say how long librados may wait. Without a limit a storage daemon
would stand for five minutes before a monitor that is off, and a write before a lost OSD for ever; with it both become
an error that `rha status` shows, and what was not written is done again from the last checkpoint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from rha.decoding import from_json
from rha.errors import ConfigError, StorageError

FORMAT = "rbd"
CONNECT_SECONDS = 10  # until a monitor has answered; a storage daemon is given 30 s to start
REQUEST_SECONDS = 60  # one read or write of the cluster; a daemon that is to end waits as long as that
# Without any answer. librados's limit is not enough: a client whose watch was lost while the cluster stood still waits
# for its exclusive lock before it sends anything, and that wait has no limit.
PATIENCE_SECONDS = 120.0


class Rbd(msgspec.Struct, kw_only=True, frozen=True):
    """The file that stands for an image. `user`: without its `client.`; `conf`: our copy. `id`: Ceph's own name of the
    image, which another one under the same name does not have; `cluster`: the fsid."""

    pool: str
    image: str
    user: str
    conf: str
    id: str
    cluster: str

    @property
    def name(self) -> str:
        """As Ceph's own programs take it."""
        return f"{self.pool}/{self.image}"


def load(path: Path) -> Rbd:
    """The image that a file stands for. Raises StorageError."""
    try:
        return from_json(path.read_bytes(), Rbd)
    except (OSError, msgspec.MsgspecError) as error:
        hint = f"move {path.parent.parent} aside; its disks are then synced again, onto another image"
        raise StorageError(f"{path} cannot be read", cause=str(error), hint=hint) from error


def node(rbd: Rbd) -> dict[str, Any]:
    """A block node of QEMU's (BlockdevOptionsRbd)."""
    return {"driver": "rbd", "pool": rbd.pool, "image": rbd.image, "user": rbd.user, "conf": rbd.conf}


def as_named(path: Path, format: str) -> tuple[str, str]:
    """Name and format of an image as QEMU's programs take them, and as an overlay keeps them. Raises StorageError."""
    if format != FORMAT:
        return str(path.absolute()), format
    return "json:" + json.dumps({"driver": "raw", "file": node(load(path))}), "raw"


def below(backing: str) -> dict[str, Any] | None:
    """The node that an overlay names as its backing (as `as_named` gave it); None when that is a file."""
    if not backing.startswith("json:"):
        return None
    words: dict[str, Any] = json.loads(backing.removeprefix("json:"))
    file: dict[str, Any] = words.get("file", words)
    return file if file.get("driver") == "rbd" else None


def conf_of(path: Path) -> Path:
    """Our copy of ceph.conf, beside the file that stands for an image."""
    return path.with_suffix(".ceph.conf")


def copy_conf(source: Path, copy: Path, user: str, keyring: str) -> None:
    """Makes the copy anew. The user's own section is the most specific one, and the last word in it counts.

    Raises ConfigError when there is no such file, StorageError when the copy cannot be written.
    """
    try:
        text = source.read_text()
    except (OSError, UnicodeDecodeError) as error:
        hint = "conf of the [[target]] in the appliance's file names Ceph's configuration"
        raise ConfigError(f"{source} cannot be read", cause=str(error), hint=hint) from error
    own = {
        "client_mount_timeout": str(CONNECT_SECONDS),
        "rados_mon_op_timeout": str(CONNECT_SECONDS),
        "rados_osd_op_timeout": str(REQUEST_SECONDS),
        **({"keyring": keyring} if keyring else {}),
    }
    lines = [text.rstrip("\n"), "", f"[client.{user}]", *(f"{key} = {value}" for key, value in own.items()), ""]
    draft = copy.with_name(copy.name + ".new")
    try:
        # A ceph.conf may hold keys: nobody else may read the copy.
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines))
        draft.replace(copy)
    except OSError as error:
        raise StorageError(f"{copy} cannot be written", cause=str(error), hint=f"df -h {copy.parent}") from error
