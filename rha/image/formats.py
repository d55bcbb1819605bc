"""Image files: made, layered, described and checked by qemu-img."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Literal

import msgspec

from rha.errors import HostError, StorageError
from rha.image import rbd

Format = Literal["qcow2", "raw", "vhdx", "vmdk"]
FORMATS: tuple[Format, ...] = ("qcow2", "raw", "vhdx", "vmdk")
GROWING: tuple[str, ...] = ("qcow2", "raw")

# lazy_refcounts stays off: an image whose daemon was killed needs no repair before QEMU opens it.
_OPTIONS: dict[Format, str] = {"qcow2": "compat=1.1", "vmdk": "subformat=monolithicSparse", "vhdx": "subformat=dynamic"}


class ImageInfo(msgspec.Struct, rename="kebab", kw_only=True):
    """What qemu-img says of an image. `virtual_size`: bytes the guest sees; `actual_size`: bytes on the host's disk."""

    filename: str
    format: str
    virtual_size: int
    actual_size: int = 0
    backing_filename: str | None = None
    full_backing_filename: str | None = None
    backing_filename_format: str | None = None
    dirty_flag: bool = False


class ImageCheck(msgspec.Struct, rename="kebab", kw_only=True):
    """What qemu-img found. Leaks waste space and harm nothing: a killed storage daemon leaves some."""

    corruptions: int = 0
    leaks: int = 0
    corruptions_fixed: int = 0
    leaks_fixed: int = 0
    check_errors: int = 0

    @property
    def is_sound(self) -> bool:
        return self.corruptions == 0 and self.check_errors == 0


def create(path: Path, size: int, format: Format = "qcow2") -> None:
    """Makes an image of `size` bytes that reads as zeros.

    Raises StorageError when the target exists or qemu-img refuses; nothing is left behind then.
    """
    options = ["-o", _OPTIONS[format]] if format in _OPTIONS else []
    _make(path, ["-f", format, *options], [str(size)])


def overlay(path: Path, backing: Path, backing_format: str) -> None:
    """Makes a qcow2 whose unwritten parts are read from `backing`, which is not changed. `backing_format` may be `rbd`.

    Raises StorageError when the target exists, or the backing file is missing or of another format.
    """
    name, form = rbd.as_named(backing, backing_format)
    _make(path, ["-f", "qcow2", "-b", name, "-F", form], [])


def grow(path: Path, size: int, format: str) -> None:
    """Makes a closed image `size` bytes long, its new part zeros; does nothing when it is as long already.

    Raises StorageError, also for formats that qemu-img cannot resize.
    """
    name, form = rbd.as_named(path, format)
    if info(name).virtual_size >= size:
        return
    if form not in GROWING:
        raise StorageError(
            f"image {path} cannot grow",
            cause=f"qemu-img resizes {' and '.join(GROWING)} only, this is {format}",
            hint="move the scenario's folder aside on the appliance for a new first sync",
        )
    _run("resize", ["-q", "-f", form, name, str(size)], path)


def overlay_on_nbd(path: Path, socket: Path, export: str) -> None:
    """Makes a qcow2 whose unwritten parts come from an NBD server on a unix socket. Raises StorageError."""
    _make(path, ["-f", "qcow2", "-b", f"nbd+unix:///{export}?socket={socket.absolute()}", "-F", "raw"], [])


def info(path: Path | str) -> ImageInfo:
    """Describes an image, one that is in use too; a name as QEMU takes it (`rbd.as_named`) is one of raw. Raises
    StorageError."""
    form = ["-f", "raw"] if isinstance(path, str) and path.startswith("json:") else []
    return msgspec.json.decode(_run("info", ["-U", *form, "--output=json", str(path)], Path(path)), type=ImageInfo)


class _Mapped(msgspec.Struct):
    """A row of `qemu-img map`. `present`: the image holds it itself."""

    length: int
    present: bool


def held_bytes(path: Path) -> int:
    """What a qcow2 overlay holds itself, whole clusters, of one that is in use as its file says it now. Raises
    StorageError, HostError."""
    file = {"driver": "file", "filename": str(path.absolute())}
    alone = json.dumps({"driver": "qcow2", "file": file, "backing": None})
    words = ["qemu-img", "map", "-U", "--output=json", f"json:{alone}"]
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise _missing(error) from error
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        # One row a line: a scattered overlay of 100 GB has a million and more.
        held = sum(_held_in(line.strip(b"[], \n")) for line in process.stdout)
        stderr = process.stderr.read()
    if process.returncode:
        raise StorageError(f"qemu-img map failed on {path}", cause=last_words(stderr), hint=_hint(stderr))
    return held


def _held_in(row: bytes) -> int:
    try:
        found = msgspec.json.decode(row, type=_Mapped) if row else None
    except msgspec.MsgspecError as error:
        raise StorageError("qemu-img map said something else", cause=f"{row[:200]!r}: {error}") from error
    return found.length if found and found.present else 0


def check(path: Path, *, repair_leaks: bool = False) -> ImageCheck:
    """Checks an image that nobody uses; raw has nothing to check and counts as sound.

    Raises StorageError when it is in use, or cannot be checked at all.
    """
    if info(path).format == "raw":
        return ImageCheck()
    words = ["--output=json", *(["-r", "leaks"] if repair_leaks else []), str(path)]
    # Exit codes 2 and 3: the check ran and found corruptions, leaks.
    return msgspec.json.decode(_run("check", words, path, answers=(0, 2, 3)), type=ImageCheck)


def _make(path: Path, before: list[str], after: list[str]) -> None:
    try:
        # Taken by O_EXCL first: qemu-img overwrites what it finds, and would win a race against us.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        hint = "choose another name, or remove it if it is no longer needed" if path.exists() else ""
        raise StorageError(f"image {path} cannot be made", cause=error.strerror or str(error), hint=hint) from error
    try:
        _run("create", ["-q", *before, str(path), *after], path)
    except (StorageError, HostError):
        path.unlink(missing_ok=True)
        raise


def _run(verb: str, words: list[str], path: Path, *, answers: tuple[int, ...] = (0,)) -> bytes:
    """qemu-img's standard output. Raises StorageError with its last words when the exit code is not in `answers`."""
    try:
        done = subprocess.run(["qemu-img", verb, *words], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise _missing(error) from error
    if done.returncode not in answers:
        raise StorageError(f"qemu-img {verb} failed on {path}", cause=last_words(done.stderr), hint=_hint(done.stderr))
    return done.stdout


def _missing(error: FileNotFoundError) -> HostError:
    return HostError("qemu-img is missing", cause=str(error), hint="apt-get install qemu-utils")


def last_words(stderr: bytes) -> str:
    """What a QEMU program said last: one line, or two when the last is only the question that goes with a lock."""
    lines = stderr.decode(errors="replace").strip().splitlines()[-2:]
    if not lines:
        return "it said nothing"
    return " ".join(lines) if lines[-1].startswith("Is another process") else lines[-1]


def _hint(stderr: bytes) -> str:
    if b" lock" in stderr:
        return "another process has the image open: stop it, or look with lsof"
    return "df -h" if b"No space left" in stderr else ""
