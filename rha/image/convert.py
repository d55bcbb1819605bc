"""A disk that an NBD server shows, written as an image file by qemu-img."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from rha.errors import HostError, StorageError
from rha.image.formats import last_words

# What Hyper-V and VMware take: a dynamic VHDX, a monolithic VMDK, a fixed VHD of exactly the disk's size.
EXPORT_FORMATS = {
    "qcow2": "compat=1.1",
    "vhdx": "subformat=dynamic",
    "vmdk": "subformat=monolithicSparse",
    "raw": "",
    "vpc": "subformat=fixed,force_size=on",
}
Progress = Callable[[float, float], None]
_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")


def convert(socket: Path, export: str, target: Path, form: str, *, progress: Progress | None = None) -> None:
    """Writes a new file; holes stay holes. `progress(percent, seconds)` is called now and then.

    Raises StorageError when the target exists or qemu-img fails, HostError without qemu-img; no file is left then.
    """
    source = f"nbd+unix:///{export}?socket={socket}"
    options = ["-o", EXPORT_FORMATS[form]] if EXPORT_FORMATS[form] else []
    words = ["qemu-img", "convert", "-p", "-f", "raw", "-O", form, *options, source, str(target)]
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # qemu-img overwrites what it finds
    except OSError as error:
        raise StorageError(f"{target} cannot be made", cause=error.strerror or str(error)) from error
    try:
        _run(words, target, progress)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _run(words: list[str], target: Path, progress: Progress | None) -> None:
    begun = time.monotonic()
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise HostError("qemu-img is missing", cause=str(error), hint="apt-get install qemu-utils") from error
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while said := os.read(process.stdout.fileno(), 4096):
                if progress and (found := _PERCENT.findall(said)):
                    progress(float(found[-1]), time.monotonic() - begun)
        except BaseException:
            process.kill()
            raise
        stderr = process.stderr.read()
    if process.returncode:
        raise StorageError(f"{target} was not written", cause=last_words(stderr), hint=f"df -h {target.parent}")
