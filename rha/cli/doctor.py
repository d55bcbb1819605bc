"""rha doctor"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from rha.doctor import check
from rha.errors import Exit


@click.command()
@click.option("--role", type=click.Choice(["master", "appliance"]), default="master", show_default=True)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/rha"),
    show_default=True,
    help="Appliance: where journals and images will be.",
)
@click.option("--scenario", type=click.Path(path_type=Path), help="Master: also what this scenario's lease needs.")
@click.option("--config", type=click.Path(path_type=Path), help="Appliance: its file; also how masters are cut off.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list of findings.")
def command(role: str, store: Path, scenario: Path | None, config: Path | None, as_json: bool) -> int:
    """Is this host fit to be a master, or an appliance?

    Looks, and changes nothing. Exit code 0: fit, perhaps with warnings; 1: there is a fault.
    """
    findings = check.run(_of_master(scenario) if role == "master" else _of_appliance(store, config))
    if as_json:
        click.echo(msgspec.json.encode(findings).decode())
    else:
        click.echo(check.table(findings))
    return Exit.DIFFERENT if check.worst(findings) == "fault" else Exit.OK


def _of_master(scenario: Path | None) -> list[check.Check]:
    from rha.doctor import fence, master

    if scenario is None:
        return master.checks()
    from rha import scenario_check

    return [*master.checks(), *fence.of_master(scenario_check.load(scenario))]


def _of_appliance(store: Path, config: Path | None) -> list[check.Check]:
    from rha.doctor import appliance, fence, targets

    if config is None:
        return appliance.checks(store)
    from rha.appliance.config import load
    from rha.appliance.fencing import means_of

    loaded = load(config)
    checks = appliance.checks(Path(loaded.store)) + targets.of_appliance(loaded)
    for scenario in fence.known(Path(loaded.store)):
        checks += fence.of_appliance(scenario, means_of(loaded, scenario.name))
    return checks
