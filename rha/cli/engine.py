"""rha engine"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--scenario", "path", required=True, type=click.Path(path_type=Path), help="The scenario's file (TOML).")
@click.option("--unload", is_flag=True, help="Stop tracking and take the probe out of the kernel.")
def command(path: Path, unload: bool) -> int:
    """Protect this host: capture and ship the writes of a scenario's disks.

    Runs in the foreground until it is told to stop (SIGTERM, Ctrl-C). Tracking goes on in the kernel: a new start
    continues without a resync. Only --unload ends it; the next start then compares every disk with its image.
    """
    from rha import scenario_check

    scenario = scenario_check.load(path)  # every mistake of the file, before anything is touched
    from rha.engine import daemon

    if unload:
        removed = daemon.unload(scenario)
        left = "the probe is unloaded; the next start compares everything" if removed else "no probe was loaded"
        click.echo(f"{scenario.name}: {left}")
        return 0
    return daemon.run(path)
