"""One qemu-storage-daemon per scenario: it knows the image formats, we speak NBD to it.

Of each image two exports of one node: `NAME`, writable, and `ro:NAME`, read-only, for compare and verify; both see the
same bytes. Several clients may use either at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from rha.errors import HostError, StorageError
from rha.image.client import ImageReader, ImageWriter, read_only_export
from rha.image.direct import DirectFile
from rha.image.formats import last_words
from rha.image.qmp import Qmp

__all__ = ["ImageReader", "ImageSpec", "ImageWriter", "StorageDaemon"]

START_SECONDS = 30.0
STOP_SECONDS = 60.0  # it flushes every image on its way out
PREVIOUS_SECONDS = 20.0  # a killed daemon may wait for its last I/O
MAX_SOCKET_PATH_BYTES = 107
PROGRAM = "qemu-storage-daemon"


class ImageSpec(NamedTuple):
    """An image to be served. `name`: the disk's name in its scenario; `format`: qcow2, raw, vhdx, vmdk."""

    name: str
    path: Path
    format: str


class StorageDaemon:
    """Runs from `start` (or `with`) to `stop`, and dies with us.

    The kernel sends its SIGKILL when the *thread* that called `start` ends, not only the process: start it from one
    that lives as long as the daemon is needed. A killed daemon loses what was not flushed and leaks clusters at worst.
    """

    def __init__(self, images: Sequence[ImageSpec], folder: Path, *, as_files: bool = False) -> None:
        """`folder`: for nbd.sock, qmp.sock, pid and log; one scenario's own. `as_files`: each image is a raw file
        there, `file_of` (FUSE), instead of an NBD export. Nothing is started yet."""
        self.images = list(images)
        self.folder = folder
        self._as_files = as_files
        self.socket = folder / "nbd.sock"
        self._pidfile = folder / "storage-daemon.pid"
        self._log = folder / "storage-daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None

    def start(self) -> None:
        """Starts the daemon and returns when its exports can be used.

        Raises StorageError when an image is missing, damaged or in use, HostError when the program is missing.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for image in self.images if self._as_files else ():
            self.file_of(image.name).touch()
        _await_end_of_previous(self._pidfile)
        self.socket.unlink(missing_ok=True)
        with _listener(self.folder / "qmp.sock") as listener, self._log.open("wb") as log:
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(self.folder / "qmp.sock"))
            self._process = _spawn(self._command(listener.fileno()), listener.fileno(), log.fileno())
        # Ours is closed now: when the daemon dies, its end is the last one and the greeting's reader sees the end.
        try:
            self._qmp = Qmp(client, timeout=START_SECONDS)
        except (EOFError, OSError) as error:
            client.close()
            self._kill()
            raise self._not_started() from error

    def _command(self, qmp_file: int) -> list[str]:
        words = ["setpriv", "--pdeathsig", "KILL", PROGRAM]
        words += ["--chardev", f"socket,id=qmp,fd={qmp_file},server=on,wait=off", "--monitor", "chardev=qmp"]
        words += ["--nbd-server", _json(addr={"type": "unix", "path": str(self.socket)}, **{"max-connections": 0})]
        for number, image in enumerate(self.images):
            node = f"image{number}"
            words += _image_words(node, image)
            words += _file_words(node, self.file_of(image.name)) if self._as_files else _nbd_words(node, image.name)
        return [*words, "--pidfile", str(self._pidfile)]

    def _not_started(self) -> StorageError:
        said = self._log.read_bytes()
        if b" lock" in said:
            return StorageError(
                "an image is in use",
                cause=last_words(said),
                hint="another storage daemon, VM or tool has it open: stop it, or look with lsof",
            )
        return StorageError("the storage daemon did not start", cause=last_words(said), hint=f"see {self._log}")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Runs one QMP command and returns its answer.

        Raises StorageError when it is refused or the daemon is gone.
        """
        if self._qmp is None:
            raise StorageError("the storage daemon does not run", cause=f"{command} was asked of it")
        try:
            return self._qmp.execute(command, **arguments)
        except (EOFError, OSError) as error:
            raise StorageError(
                "the storage daemon does not answer", cause=str(error), hint=f"see {self._log}"
            ) from error

    def file_of(self, name: str) -> Path:
        """Where an image is a raw file; valid iff `as_files`."""
        return self.folder / f"{name}.raw"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def writer(self, name: str, *, connections: int = 2) -> ImageWriter:
        """A writer of one image, the only one while it lives. Raises StorageError."""
        image = next((image for image in self.images if image.name == name), None)
        direct = DirectFile.open(image.path, image.format) if image else None
        try:
            return ImageWriter(self.socket, name, connections=connections, direct=direct)
        except StorageError:
            if direct:
                direct.close()
            raise

    def reader(self, name: str, *, beside: ImageWriter | None = None) -> ImageReader:
        """A reader of one image; `beside`: for the thread of its writer. Raises StorageError."""
        return ImageReader(self.socket, name, beside=beside)

    def stop(self) -> None:
        """Ends the daemon; its images are flushed and closed. Close writers and readers first.

        Raises StorageError when it had died, or did not end in time and was killed: redo from the last checkpoint.
        """
        process, qmp = self._process, self._qmp
        if process is None or qmp is None:
            return
        with contextlib.suppress(EOFError, OSError, StorageError):
            qmp.execute("quit")
        qmp.close()
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            status = -signal.SIGKILL
        self._process = self._qmp = None
        if status:
            raise StorageError(
                "the storage daemon did not end well",
                cause=f"exit status {status}: {last_words(self._log.read_bytes())}",
            )

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _json(**words: Any) -> str:
    return json.dumps(words)


def _image_words(node: str, image: ImageSpec) -> list[str]:
    """Options for one image. JSON, because a path may hold commas.

    detect-zeroes stays off: it scans every write, and zeros reach us as such (discards, write-zeroes, sync ranges).
    """
    file = {"driver": "file", "filename": str(image.path.absolute()), "aio": "threads", "discard": "unmap"}
    top = _json(driver=image.format, file=file, discard="unmap", **{"node-name": node})
    return ["--blockdev", top]


def _nbd_words(node: str, image: str) -> list[str]:
    words: list[str] = []
    for suffix, name, writable in (("rw", image, True), ("ro", read_only_export(image), False)):
        export = {"type": "nbd", "id": f"{node}-{suffix}", "node-name": node, "name": name, "writable": writable}
        words += ["--export", _json(**export)]
    return words


def _file_words(node: str, path: Path) -> list[str]:
    """A raw file in the file system (FUSE), writable: a file system's own recovery goes into the overlay."""
    export = {"type": "fuse", "id": f"{node}-file", "node-name": node, "mountpoint": str(path.absolute())}
    return ["--export", _json(**export, writable=True)]


def _listener(path: Path) -> socket.socket:
    """A listening socket that the daemon inherits: connecting to it cannot come too early, so nothing is polled."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise StorageError(
            f"{path} cannot be a socket",
            cause=f"its path is over {MAX_SOCKET_PATH_BYTES} bytes",
            hint="use a shorter folder",
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def _spawn(command: list[str], keep: int, log: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, pass_fds=(keep,), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    except FileNotFoundError as error:
        raise HostError("setpriv is missing", cause=str(error), hint="apt-get install util-linux") from error


def _await_end_of_previous(pidfile: Path) -> None:
    """Waits for the daemon of an appliance that was killed: its own SIGKILL may still be on the way, and it holds the
    images' locks until it is gone.

    Raises StorageError when it does not end: then a living appliance uses this folder.
    """
    try:
        pid = int(pidfile.read_text())
        if os.fsencode(pidfile) not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        handle = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
    try:
        if not select.select([handle], [], [], PREVIOUS_SECONDS)[0]:
            raise StorageError(
                "another appliance serves these images", cause=f"its storage daemon is process {pid}", hint="rha status"
            )
    finally:
        os.close(handle)
