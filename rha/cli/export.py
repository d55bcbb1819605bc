"""rha export"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from rha import pointsview
from rha.cli import ask
from rha.errors import StateError
from rha.image.convert import EXPORT_FORMATS, convert
from rha.units import show_bytes, show_seconds


@click.command()
@click.argument("scenario")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--at", default="now", show_default=True, help="LSN, time, duration (so long ago), bookmark, kept.")
@click.option("--format", "form", type=click.Choice(list(EXPORT_FORMATS)), default="qcow2", show_default=True)
@click.option("--disk", help="Which disk, when there are several.")
def command(scenario: str, file: Path, at: str, form: str, disk: str | None) -> None:
    """Write a disk of a point as an image file.

    Run it on the appliance. vpc is a fixed VHD. Replication goes on meanwhile. FILE must not exist.
    """
    with ask.opened(scenario, at) as point:
        chosen = _disk(scenario, list(point["overlays"]), disk)
        click.echo(f"{chosen} of {scenario} at {pointsview.shown(point)}")
        begun = time.monotonic()
        convert(Path(point["socket"]), chosen, file, form, progress=_shown if sys.stderr.isatty() else None)
        seconds = time.monotonic() - begun
    size = file.stat().st_blocks * 512
    click.echo(f"{file}: {form}, {show_bytes(size)} on disk, in {show_seconds(seconds)}")


def _disk(scenario: str, disks: list[str], wanted: str | None) -> str:
    if wanted is None and len(disks) == 1:
        return disks[0]
    if wanted not in disks:
        cause = f"{scenario} has: {', '.join(disks)}"
        raise StateError(f"no disk {wanted}" if wanted else "which disk?", cause=cause, hint="--disk NAME")
    return wanted


def _shown(percent: float, seconds: float) -> None:
    left = f", {show_seconds(seconds * (100 - percent) / percent)} left" if percent > 1 else ""
    click.echo(f"\r{percent:6.2f} %{left}   ", nl=False, err=True)
