"""rha restore"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from rha import pointsview
from rha.cli import ask
from rha.errors import StateError, StorageError
from rha.inside import inside


@click.command()
@click.argument("scenario")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--at", required=True, help="LSN, time, duration (so long ago), bookmark, kept, now.")
def command(scenario: str, file: Path, target: Path, at: str) -> None:
    """Copy a file or directory out of a point.

    TARGET is a path on this host.

    Run it on the appliance. FILE is the path in its file system, /etc/passwd; when the point has several file systems,
    with disk and partition before it: rootp1/etc/passwd. Owner, mode, times, ACLs, xattrs, links and holes are kept.
    TARGET must not exist.
    """
    if os.path.lexists(target):
        raise StateError(f"{target} exists already", cause="nothing is overwritten", hint="choose another name")
    with tempfile.TemporaryDirectory(prefix="rha-restore-") as folder, ask.opened(scenario, at, folder) as point:
        source = _source(Path(folder), str(file), len(point["mounts"]))
        if not os.path.lexists(source):
            raise StateError(f"{file} is not in the point", cause=_there_is(Path(folder), source))
        copied = subprocess.run(
            ["cp", "--archive", "--sparse=auto", "--", str(source), str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if copied.returncode:
            _remove(target)
            raise StorageError(
                f"{file} could not be copied", cause=copied.stderr.strip(), hint=f"df -h {target.parent}"
            )
    click.echo(f"{target} is {file} at {pointsview.shown(point)}")


def _remove(target: Path) -> None:
    """A part of what was wanted is worse than nothing: it looks like all of it."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)


def _source(folder: Path, file: str, file_systems: int) -> Path:
    """Links lead within their own file system: which other one was mounted where is not known here."""
    first, _, rest = file.lstrip("/").partition("/")
    if file_systems > 1 and rest and first not in ("", ".", ".."):
        return inside(folder / first, rest)
    return inside(folder, file)


def _there_is(top: Path, source: Path) -> str:
    """What is in the nearest directory that exists."""
    folder = source.parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"/{folder.relative_to(top)} has: {shown}".replace("/.", "/", 1)
