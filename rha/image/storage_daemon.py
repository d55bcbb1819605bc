"""One qemu-storage-daemon per scenario: it knows the image formats, we speak NBD to it.

Of each image two exports of one node: `NAME`, writable, and `ro:NAME`, read-only, for compare and verify; both see the
same bytes. Several clients may use either at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from rha.errors import HostError, StorageError
from rha.image import rbd
from rha.image.client import ImageReader, ImageWriter, read_only_export
from rha.image.direct import DirectFile
from rha.image.formats import last_words
from rha.image.qmp import Qmp

__all__ = ["ImageReader", "ImageSpec", "ImageWriter", "StorageDaemon"]

START_SECONDS = 30.0
STOP_SECONDS = 60.0  # it flushes every image on its way out
PREVIOUS_SECONDS = 20.0  # a killed daemon may wait for its last I/O
_POLL_SECONDS = 0.02
SAID_BYTES = 64 << 10  # of what the daemon said last
MAX_SOCKET_PATH_BYTES = 107
PROGRAM = "qemu-storage-daemon"
# Its NBD server takes memory for each request, and glibc a mapping of its own for each block of that size: every byte
# then goes through a page that was just made and cleared. Kept instead, the buffers of 32 requests (two connections of
# 16) take 8 MiB, and writing new clusters half the processor time: 0.75 s a GiB instead of 1.3.
_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
    "MALLOC_TOP_PAD_": str(1 << 20),
}


class ImageSpec(NamedTuple):
    """An image to be served. `name`: the disk's name in its scenario; `format`: qcow2, raw, vhdx, vmdk; rbd
    for what lies in Ceph: `path` then is the file that stands for it (rha.image.rbd)."""

    name: str
    path: Path
    format: str


class StorageDaemon:
    """Runs from `start` (or `with`) to `stop`, and dies with us.

    The kernel sends its SIGKILL when the *thread* that called `start` ends, not only the process: start it from one
    that lives as long as the daemon is needed. A killed daemon loses what was not flushed and leaks clusters at worst.
    """

    def __init__(
        self,
        images: Sequence[ImageSpec],
        folder: Path,
        *,
        as_files: bool = False,
        read_only: bool = False,
        alone: bool = False,
        patience: float | None = None,
    ) -> None:
        """`folder`: for nbd.sock and qmp.sock; one scenario's own. `as_files`: each image is a raw file
        there, `file_of` (FUSE), instead of an NBD export. `read_only`: nothing can be written. `alone`: what
        lies below each image is not opened; what the image does not hold reads as zeros. `patience`: of
        its writers and readers (rha.image.client). Nothing is started yet."""
        self._patience = patience
        self.images = list(images)
        self.folder = folder
        self._as_files, self._read_only, self._alone = as_files, read_only, alone
        self.socket = folder / "nbd.sock"
        self._words: IO[bytes] | None = None  # what it says: in memory, as a full disk must not silence it
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None

    def start(self) -> None:
        """Starts the daemon and returns when its exports can be used.

        Raises StorageError when an image is missing, damaged or in use, HostError when the program is missing.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for image in self.images if self._as_files else ():
                self.file_of(image.name).touch()
            client = self._spawn()
        except OSError as error:
            raise StorageError(
                "the storage daemon did not start",
                cause=f"{self.folder}: {error.strerror}",
                hint=f"df -h {self.folder}",
            ) from error
        # The listener is closed now: when the daemon dies, its end is the last one and the greeting's reader sees it.
        try:
            self._qmp = Qmp(client, timeout=START_SECONDS)
        except (EOFError, OSError) as error:
            client.close()
            self._kill()
            raise self._not_started() from error

    def _spawn(self) -> socket.socket:
        """Returns the connection to its monitor. Raises OSError, HostError, StorageError."""
        self._words = os.fdopen(os.memfd_create("storage-daemon"), "rb")
        with _taken(self.folder) as lock:
            self.socket.unlink(missing_ok=True)
            with _listener(self.folder / "qmp.sock") as listener:
                client = socket.socket(socket.AF_UNIX)
                client.connect(str(self.folder / "qmp.sock"))
                self._process = _spawn(
                    self._command(listener.fileno()), (listener.fileno(), lock), self._words.fileno()
                )
        return client

    def _command(self, qmp_file: int) -> list[str]:
        words = ["setpriv", "--pdeathsig", "KILL", PROGRAM]
        words += ["--chardev", f"socket,id=qmp,fd={qmp_file},server=on,wait=off", "--monitor", "chardev=qmp"]
        words += ["--nbd-server", _json(addr={"type": "unix", "path": str(self.socket)}, **{"max-connections": 0})]
        for number, image in enumerate(self.images):
            node = f"image{number}"
            words += _image_words(node, image, {"backing": None} if self._alone else {}, self._read_only)
            if self._as_files:
                words += _file_words(node, self.file_of(image.name))
            else:
                words += _nbd_words(node, image.name, self._read_only)
        return words

    def _not_started(self) -> StorageError:
        said = self._said()
        if b" lock" in said:
            return StorageError(
                "an image is in use",
                cause=last_words(said),
                hint="another storage daemon, VM or tool has it open: stop it, or look with lsof",
            )
        return StorageError("the storage daemon did not start", cause=last_words(said), hint=f"df -h {self.folder}")

    def _said(self) -> bytes:
        """The end of what the daemon has said."""
        if self._words is None:
            return b""
        file = self._words.fileno()
        return os.pread(file, SAID_BYTES, max(0, os.fstat(file).st_size - SAID_BYTES))

    def execute(self, command: str, **arguments: Any) -> Any:
        """Runs one QMP command and returns its answer.

        Raises StorageError when it is refused or the daemon is gone.
        """
        if self._qmp is None:
            raise StorageError("the storage daemon does not run", cause=f"{command} was asked of it")
        try:
            return self._qmp.execute(command, **arguments)
        except (EOFError, OSError) as error:
            cause = f"{error}; {last_words(self._said())}"
            raise StorageError("the storage daemon does not answer", cause=cause) from error

    def file_of(self, name: str) -> Path:
        """Where an image is a raw file; valid iff `as_files`."""
        return self.folder / f"{name}.raw"

    def export_bitmap(self, name: str, bitmap: str) -> str:
        """Lets a dirty bitmap of a read-only image be read (rha.vm.live_disks.dirty_ranges): its export's name.

        Raises StorageError when there is none, or it was not closed well and says nothing.
        """
        index = next(index for index, image in enumerate(self.images) if image.name == name)
        export, node = f"dirty:{name}", f"image{index}"
        words = {"id": f"{node}-dirty", "node-name": node, "name": export, "writable": False, "bitmaps": [bitmap]}
        self.execute("block-export-add", type="nbd", **words)
        return export

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
            return ImageWriter(self.socket, name, connections=connections, direct=direct, patience=self._patience)
        except StorageError:
            if direct:
                direct.close()
            raise

    def reader(self, name: str, *, beside: ImageWriter | None = None, aside: ImageWriter | None = None) -> ImageReader:
        """A reader of one image; `beside`: for the thread of its writer, `aside`: for another one. Raises
        StorageError."""
        return ImageReader(self.socket, name, beside=beside, aside=aside, patience=self._patience)

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
                cause=f"exit status {status}: {last_words(self._said())}",
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


def _image_words(node: str, image: ImageSpec, below: dict[str, Any], read_only: bool) -> list[str]:
    """Options for one image. JSON, because a path may hold commas.

    detect-zeroes stays off: it scans every write, and zeros reach us as such (discards, write-zeroes, sync ranges).
    """
    more = {"node-name": node, "read-only": read_only, **below}
    if image.format == rbd.FORMAT:
        file, form = rbd.node(rbd.load(image.path)), "raw"
    else:
        driver = "host_device" if image.path.is_block_device() else "file"
        file, form = {"driver": driver, "filename": str(image.path.absolute()), "aio": "threads"}, image.format
    top = _json(driver=form, file={**file, "discard": "unmap"}, discard="unmap", **more)
    return ["--blockdev", top]


def _nbd_words(node: str, image: str, read_only: bool) -> list[str]:
    words: list[str] = []
    exports = (("rw", image, True), ("ro", read_only_export(image), False))
    for suffix, name, writable in exports[1:] if read_only else exports:
        export = {"type": "nbd", "id": f"{node}-{suffix}", "node-name": node, "name": name, "writable": writable}
        export["allocation-depth"] = read_only
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
    try:
        listener.bind(str(path))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _spawn(command: list[str], keep: tuple[int, ...], words: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            pass_fds=keep,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
            env={**os.environ, **_MEMORY},
        )
    except FileNotFoundError as error:
        raise HostError("setpriv is missing", cause=str(error), hint="apt-get install util-linux") from error


@contextlib.contextmanager
def _taken(folder: Path) -> Iterator[int]:
    """The folder's lock, for the daemon to inherit and hold as long as it lives. The daemon of an appliance that was
    killed is waited for: its own SIGKILL may still be on the way, and it holds the images' locks until it is gone.
    A file with its process's number was rejected: on a full disk there is no room for it.

    Raises StorageError when it does not end: then a living appliance uses this folder.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + PREVIOUS_SECONDS
        while not _locked(lock):
            if time.monotonic() > end:
                raise StorageError(
                    "another appliance serves these images",
                    cause=f"its storage daemon holds {folder}",
                    hint=f"rha status; fuser -v {folder}",
                )
            time.sleep(_POLL_SECONDS)
        yield lock
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
