"""The master's PostgreSQL, run from the mounted disk in a chroot with its own processes and mounts."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from demo.product import DIES_WITH_US

# The mounts exist in the new namespace only, and end with it. /run is not the disk's: sockets leave no trace there.
# The shell stays the namespace's first process: one that changes its user, as chroot does, loses its death signal.
START = r"""
set -e
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
mount -t tmpfs tmpfs "$1/run"
mkdir -m 1777 "$1/run/postgresql"
chroot --userspec=postgres:postgres "$1" /usr/lib/postgresql/15/bin/postgres \
    -c config_file=/etc/postgresql/15/main/postgresql.conf -c port="$2" -c listen_addresses=127.0.0.1
exit $?
"""


class Database:
    """PostgreSQL on a port of loopback. All of its processes die with the first one of their namespace."""

    def __init__(self, root: Path, port: int, log: Path) -> None:
        words = [*DIES_WITH_US, "unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*words, "sh", "-c", START, "sh", str(root), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C is for the demo, which then ends this in order
            )

    def kill(self) -> None:
        """`kill -9`, at once; returns when every process is gone. May be called twice."""
        children = self._children()
        for first in children:
            os.kill(first, signal.SIGKILL)
        if not children:
            self._process.kill()
        self._process.wait()

    def _children(self) -> list[int]:
        """The namespace's first process: unshare's only child. Killed first, because then unshare's end is its end."""
        if self._process.poll() is not None:
            return []
        pid = self._process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
