"""rha appliance"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="The appliance's file (TOML).")
def command(path: Path) -> int:
    """Receive scenarios, keep their images, start substitute VMs.

    Runs in the foreground until it is told to stop (SIGTERM, Ctrl-C). Started again, it goes on where its journal ends.
    """
    from rha.appliance import config

    config.load(path)  # every mistake of the file, before anything is touched
    from rha.appliance import daemon

    return daemon.run(path)
