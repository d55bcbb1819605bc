"""rha pki"""

from __future__ import annotations

from pathlib import Path

import click

from rha import pki

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_DIR = click.option("--dir", "directory", required=True, type=_DIRECTORY, help="Where the CA is.")


@click.group(context_settings={"show_default": True})
def command() -> None:
    """Make certificates for appliance and masters.

    Keep the CA's directory off the masters: who has ca.key can make a certificate for any scenario.
    """


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--name", "organisation", required=True, help="Your organisation, as it stands in the CA's name.")
@click.option("--days", type=click.IntRange(1), default=pki.CA_DAYS, help="Validity.")
def init(directory: Path, organisation: str, days: int) -> None:
    """Make a certificate authority in DIRECTORY."""
    _made(pki.init(directory, organisation, days=days))


@command.group()
def issue() -> None:
    """Issue a certificate and its key."""


@issue.command()
@click.argument("name")
@_DIR
@click.option("--address", "addresses", required=True, multiple=True, help="DNS name or IP address; may be repeated.")
@click.option("--days", type=click.IntRange(1), default=pki.LEAF_DAYS, help="Validity.")
def appliance(name: str, directory: Path, addresses: tuple[str, ...], days: int) -> None:
    """Certificate of the appliance NAME. Masters reach it under one of the addresses."""
    _made(pki.issue_appliance(directory, name, addresses, days=days))


@issue.command()
@click.argument("scenario")
@_DIR
@click.option("--days", type=click.IntRange(1), default=pki.LEAF_DAYS, help="Validity.")
def master(scenario: str, directory: Path, days: int) -> None:
    """Certificate of the master of SCENARIO, good for that scenario only."""
    _made(pki.issue_master(directory, scenario, days=days))


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def show(files: tuple[Path, ...]) -> None:
    """Say what certificate FILES hold, and how long they are valid."""
    for path in files:
        click.echo(_described(pki.show(path)))


def _made(pair: pki.Pair) -> None:
    click.echo(f"{pair.certificate}\n{pair.key}  (secret)")


def _described(shown: pki.Shown) -> str:
    left = f"{shown.days_left} days left" if shown.days_left >= 0 else "EXPIRED"
    lines = [
        ("subject", shown.subject),
        ("role", shown.role or "none of rha's"),
        ("scenario", shown.scenario),
        ("addresses", ", ".join(shown.addresses)),
        ("valid until", f"{shown.not_after:%Y-%m-%d %H:%M} UTC ({left})"),
    ]
    return "\n".join([str(shown.path), *(f"  {label:<12}{text}" for label, text in lines if text)])
