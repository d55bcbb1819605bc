"""rha observe"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--config", required=True, type=click.Path(path_type=Path), help="The observer's file (TOML).")
def command(config: Path) -> int:
    """Tell appliances what this host sees of their masters.

    For a third host: it has one vote on whether a master is dead. Runs in the foreground until it is told to stop.
    """
    from rha.watch import observe

    return observe.run(config)
