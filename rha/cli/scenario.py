"""rha scenario"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from rha.errors import DeviceError, RhaError
from rha.scenario import Lease, Scenario

ETCD_SECONDS = 5.0


@click.group()
def command() -> None:
    """Show a sample scenario, or check a file."""


@command.command()
def sample() -> None:
    """Print a commented scenario file to start from."""
    click.echo(resources.files("rha").joinpath("scenario_sample.toml").read_text(encoding="utf-8"), nl=False)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--here", is_flag=True, help="Look at the devices and certificates too; run this on the master.")
def check(file: Path, here: bool) -> None:
    """Name every mistake in FILE. Changes nothing."""
    from rha import scenario_boot, scenario_check, scenario_redirect, scenario_watch

    scenario = scenario_check.load(file)
    for room in (scenario_redirect, scenario_watch, scenario_boot):
        for warning in room.warnings(scenario):
            click.echo(f"warning: {warning}", err=True)
    if here:
        _check_here(scenario)
    disks = "one disk" if len(scenario.disk) == 1 else f"{len(scenario.disk)} disks"
    click.echo(f"{file} is right: scenario {scenario.name}, {scenario.mode}, {disks} to {scenario.appliance.address}")


def _check_here(scenario: Scenario) -> None:
    from rha import systemd
    from rha.capture import device
    from rha.wire import tls

    reasons = [(disk, device.why_not(Path(disk.device))) for disk in scenario.disk]
    found = [f"disk {disk.name}: {why.what}: {why.cause}" for disk, why in reasons if why]
    if found:
        hint = next(why.hint for _, why in reasons if why)
        raise DeviceError("this host cannot protect the scenario", cause="\n       ".join(found), hint=hint)
    if scenario.spool and (refusal := _why_no_spool(Path(scenario.spool.path), scenario)):
        raise refusal
    if scenario.lease and (refusal := _why_no_lease(scenario.lease)):
        raise refusal
    for unit in scenario.switch.units:
        if refusal := systemd.Units().why_not(unit):
            raise refusal
    for warning in _never_frozen(scenario):
        click.echo(f"warning: {warning}", err=True)
    files = scenario.appliance
    tls.client_context(Path(files.ca), Path(files.certificate), Path(files.key))


def _never_frozen(scenario: Scenario) -> list[str]:
    """Mounted file systems at which `rha bookmark --quiesce` would fail."""
    from rha.capture import above, device
    from rha.engine.quiesce import is_left

    if scenario.quiesce is None:
        return []
    systems = above.file_systems_on([device.lookup(disk.device) for disk in scenario.disk])
    return [
        f"{system.point} ({system.mounts[0].kind}) cannot be frozen: name it in quiesce.leave"
        for system in systems
        if system.mounts[0].kind in above.UNFREEZABLE and not is_left(system, scenario.quiesce.leave)
    ]


def _why_no_lease(lease: Lease) -> RhaError | None:
    """The reason why this master could not serve by the lease, or None."""
    from rha.fence.etcd import Access, Etcd
    from rha.fence.serving import Serving

    refusal = Serving(lease, lambda _: None).why_not()
    try:
        Etcd(Access(lease.endpoints, lease.ca, lease.certificate, lease.key), ETCD_SECONDS).read("/rha/lease/")
    except RhaError as error:
        return refusal or error
    return refusal


def _why_no_spool(path: Path, scenario: Scenario) -> RhaError | None:
    """The reason why the spool cannot lie there, or None. Whether there is room is seen when the engine makes it."""
    from rha.capture import device, location, spared

    watched = [device.lookup(disk.device) for disk in scenario.disk]
    if location.why_not_beside(path, watched) is None:
        return None
    try:
        spared.volume_of(path, watched)
    except RhaError as error:
        return error
    return None
