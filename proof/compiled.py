"""The proof's own C programs, compiled when they are needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread")


def compiled(name: str, *flags: str) -> Path:
    """The program of proof/NAME, made when it is missing or older than its source. Raises CalledProcessError."""
    source, program = HERE / name, BUILD / Path(name).stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        draft = program.with_suffix(".new")
        subprocess.run(["gcc", *FLAGS, *flags, "-o", draft, source], check=True)
        draft.rename(program)
    return program
