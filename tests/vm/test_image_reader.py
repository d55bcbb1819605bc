"""An image is read by a process that ends with its reader, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rha.image import formats
from rha.vm.image_reader import open_image

READER = """
import sys, time
from pathlib import Path
from rha.vm.image_reader import open_image
with open_image(Path(sys.argv[1]), "qcow2") as image:
    print(image.size, flush=True)
    time.sleep(600)
"""


def readers(path: Path) -> list[int]:
    """Processes whose last word is the image."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"qemu-nbd" and str(path).encode() in words:
            found.append(int(folder.name))
    return found


def wait_gone(path: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while readers(path):
        assert time.monotonic() < until, readers(path)
        time.sleep(0.05)


def test_it_ends_with_the_block(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    formats.create(path, 1 << 20)
    with open_image(path, "qcow2") as image:
        assert (image.size, image.read(0, 512)) == (1 << 20, bytes(512))
        assert readers(path)
    wait_gone(path, 20)


def test_it_ends_with_a_reader_that_is_killed(tmp_path: Path) -> None:
    """Also one that does not see its client hang up: here it is stopped; it may as well wait for it still."""
    path = tmp_path / "a.qcow2"
    formats.create(path, 1 << 20)
    reader = subprocess.Popen([sys.executable, "-c", READER, str(path)], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"1048576\n"
    (process,) = readers(path)
    os.kill(process, signal.SIGSTOP)
    try:
        reader.kill()
        reader.wait()
        wait_gone(path, 20)
    finally:
        if process in readers(path):
            os.kill(process, signal.SIGKILL)
