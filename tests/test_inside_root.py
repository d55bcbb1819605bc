"""Paths in a tree of somebody else's: no link leads out of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rha.errors import StateError
from rha.inside import inside

PATHS = [
    "etc/passwd",
    "/etc/passwd",
    "run/lock",
    "var/run/lock",
    "up/etc/passwd",
    "../../etc/passwd",
    "etc/../run/lock",
    "chain/lock",
    "etc/link",
    "./etc//passwd",
    "missing/at/all",
    "",
]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """`/run` and `/etc` are also there on this host: whoever leaves the tree finds them."""
    top = tmp_path / "top"
    for folder in ("etc", "run", "var"):
        (top / folder).mkdir(parents=True)
    (top / "etc/passwd").write_text("theirs")
    (top / "run/lock").write_text("theirs")
    (top / "etc/link").symlink_to("/etc/shadow")
    (top / "var/run").symlink_to("/run")
    (top / "up").symlink_to("../../..")
    (top / "chain").symlink_to("var/run")
    (top / "round").symlink_to("/round")
    return top


@pytest.mark.root
@pytest.mark.parametrize("path", PATHS)
def test_as_a_process_with_that_root(top: Path, path: str) -> None:
    """Judged by the kernel: chroot."""
    name = Path(path).name
    script = 'import os, sys; os.chroot(sys.argv[1]); os.chdir("/"); os.chdir("/" + sys.argv[2]); print(os.getcwd())'
    folder = path[: len(path) - len(name)] if name else path
    done = subprocess.run(
        ["/usr/bin/python3", "-S", "-c", script, top, folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        assert not inside(top, path).exists()
        return
    assert inside(top, path) == top / done.stdout.strip().lstrip("/") / name


def test_nothing_leads_out(top: Path) -> None:
    for path in PATHS:
        assert inside(top, path).is_relative_to(top)


def test_round_in_circles(top: Path) -> None:
    with pytest.raises(StateError, match="cannot be followed"):
        inside(top, "round/x")
