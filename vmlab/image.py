"""What the machines boot: the Debian image of vm-images/build-lab, and a disk with this tree as it is now."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from rha.errors import HostError
from vmlab import BUILD, ROOT

GUEST_PYTHON = (3, 11)  # Debian 12; compiled modules are copied into the machine
TREE_SPARE_BYTES = 8 << 20
_WRAPPER = "#!/opt/rha/bin/python\nimport sys\nfrom rha.cli.main import main\nsys.exit(main())\n"
_VENV = "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11\n"


class Base(NamedTuple):
    """The image and what QEMU boots directly."""

    disk: Path
    kernel: Path
    initrd: Path


def base() -> Base:
    """The cached image; built first where it is missing (under a minute to four).

    Raises HostError when it cannot be built.
    """
    done = subprocess.run([str(ROOT / "vm-images/build-lab")], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise HostError("the lab's image cannot be built", cause=f"build-lab ended with {done.returncode}")
    path = done.stdout.strip()
    return Base(Path(path + ".raw"), Path(path + ".vmlinuz"), Path(path + ".initrd"))


def tree() -> Path:
    """A small ext4 that the machines mount at /opt/rha: rha of this checkout with the packages it needs, as a virtual
    environment, and the agent. Made anew when a file has changed; machines share it, read-only.

    Raises HostError when this Python's compiled modules would not run in the machine.
    """
    _demand_python()
    files = sorted(_files())
    image = BUILD / "lab" / f"tree-{_key(files)}.img"
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        for old in image.parent.glob("tree-*.img"):
            old.unlink()  # a machine that runs has it open
        _write(image, files)
    return image


def _files() -> Iterator[tuple[str, Path]]:
    """(place below /opt/rha, file here) of everything."""
    for folder, place in (("rha", "rha"), ("csrc", "rha/csrc")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"lib/python3.11/site-packages/{place}/{path.relative_to(ROOT / folder)}", path
    for name in ("vmlab/agent.py", "vmlab/ask.py", "packaging/rha-engine@.service", "packaging/rha-appliance.service"):
        yield name, ROOT / name
    packages = Path(sysconfig.get_path("platlib"))
    for distribution in _needed("rha"):
        for entry in distribution.files or ():
            path = packages / entry
            if path.suffix != ".pyc" and ".." not in entry.parts and path.is_file():
                yield f"lib/python3.11/site-packages/{entry}", path


def _needed(name: str) -> list[metadata.Distribution]:
    """The distributions that one needs, directly or not, without extras; itself left out."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [name]
    while wanted:
        for requirement in metadata.requires(wanted.pop()) or ():
            head, _, marker = requirement.partition(";")
            matched = re.match(r"[\w.-]+", head)
            if matched and not marker and matched[0] not in found:
                found[matched[0]] = metadata.distribution(matched[0])
                wanted.append(matched[0])
    return list(found.values())


def _key(files: list[tuple[str, Path]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for place, path in files:
        state = path.stat()
        digest.update(f"{place} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def fill(root: Path) -> None:
    """Puts the same into a folder that a machine will see as /opt/rha. Raises HostError as `tree` does."""
    _demand_python()
    _fill(root, sorted(_files()))


def _demand_python() -> None:
    if sys.version_info[:2] != GUEST_PYTHON:
        raise HostError("the lab needs Python 3.11", cause=f"this is {sys.version.split()[0]}", hint="run on Debian 12")


def _write(image: Path, files: list[tuple[str, Path]]) -> None:
    with tempfile.TemporaryDirectory(prefix="rha-tree-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        _fill(root, files)
        _format(root, image)


def _fill(root: Path, files: list[tuple[str, Path]]) -> None:
    for place, path in files:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, root / place)
    (root / "bin").mkdir()
    (root / "bin/python").symlink_to("/usr/bin/python3")
    (root / "bin/rha").write_text(_WRAPPER)
    (root / "bin/rha").chmod(0o755)
    (root / "pyvenv.cfg").write_text(_VENV)
    _compile(root)


def _compile(root: Path) -> None:
    """Byte code, named as the machine will see it: it cannot write its own there."""
    words = [sys.executable, "-m", "compileall", "-q", "-s", str(root), "-p", "/opt/rha", str(root)]
    subprocess.run([*words, "--invalidation-mode", "unchecked-hash"], check=False)


def _format(root: Path, image: Path) -> None:
    used = sum(path.stat().st_size + 4096 for path in root.rglob("*"))
    partial = image.with_suffix(f".{os.getpid()}")
    with partial.open("wb") as handle:
        handle.truncate(used * 5 // 4 + TREE_SPARE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-L", "rha-tree", "-O", "^has_journal", "-d", root, partial], check=True)
    partial.replace(image)
