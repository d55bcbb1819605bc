"""rha sync"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rha.errors import RhaError
from rha.units import show_bytes, show_seconds

_FILE = click.Path(path_type=Path, dir_okay=False)
_MEDIUM = click.argument("medium", type=click.Path(path_type=Path, file_okay=False, exists=True))
_KEY = click.option("--key-file", type=_FILE, help="A file of random bytes, at least 16.")
_PASSPHRASE = click.option("--passphrase-file", type=_FILE, help="A file whose first line is the passphrase.")
SHOW_SECONDS = 1.0


@click.group()
def command() -> None:
    """Carry a first sync to the appliance on a removable medium.

    Export on the master, carry, import on the appliance; the engine then compares, and sends what has changed.
    With `sync.method = "offline"` in the scenario the engine waits for the import.
    """


@command.command()
@_MEDIUM
@click.option("--scenario", required=True, type=_FILE, help="The scenario's file (TOML).")
@_KEY
@_PASSPHRASE
def export(medium: Path, scenario: Path, key_file: Path | None, passphrase_file: Path | None) -> None:
    """Write a scenario's disks to MEDIUM, encrypted. Run it on the master.

    Its engine may run meanwhile. Broken off, the same command goes on.
    """
    from rha import scenario_check
    from rha.sync import medium as media
    from rha.sync import offline

    loaded = scenario_check.load(scenario)
    secret = media.read_secret(key_file, passphrase_file)
    begun = time.monotonic()
    done = offline.export(loaded, medium, secret, _Shown(begun))
    for disk, sentence in zip(loaded.disk, done.sentences, strict=True):
        click.echo(f"{disk.name}: {sentence}")
    click.echo(
        f"{medium}/rha-{loaded.name}: {show_bytes(done.total_bytes)} of disks, read {show_bytes(done.read_bytes)}, "
        f"{show_bytes(done.stored_bytes)} on the medium, in {show_seconds(time.monotonic() - begun)}"
        + (" (went on with a broken export)" if done.is_resumed else "")
    )


@command.command(name="import")
@_MEDIUM
@click.option("--name", help="The scenario, when the medium holds several.")
@_KEY
@_PASSPHRASE
def import_(medium: Path, name: str | None, key_file: Path | None, passphrase_file: Path | None) -> None:
    """Fill a new scenario's images from MEDIUM. Run it on the appliance, which must be running.

    Broken off, the same command goes on. A scenario that has images already is refused.
    """
    from rha.control import local
    from rha.sync import medium as media

    secret = media.read_secret(key_file, passphrase_file)
    socket = local.RUN_DIR / "appliance.sock"
    words = {"medium": str(medium.resolve()), "kind": secret.kind, "secret": secret.value.hex(), "name": name}
    begun = time.monotonic()
    done = _while_shown(
        lambda: local.call(socket, "import_medium", timeout=None, **words),
        lambda: local.call(socket, "import_progress"),
        _Shown(begun),
    )
    click.echo(
        f"{done['scenario']}: {', '.join(done['disks'])} filled with {show_bytes(done['bytes'])} in "
        f"{show_seconds(time.monotonic() - begun)}; its engine compares when it connects"
    )


def _while_shown(act: Callable[[], Any], ask: Callable[[], Any], shown: Callable[[int, int], None]) -> Any:
    """The result of `act`, which runs in a thread while its progress is asked for and shown."""
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=run, name="import", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(SHOW_SECONDS)
        try:
            if thread.is_alive() and (progress := ask()):
                shown(*progress)
        except RhaError:
            continue  # the act itself will say what is wrong
    if failures:
        raise failures[0]
    return results[0]


class _Shown:
    """Progress with rate and remaining time: one line that moves on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, begun: float) -> None:
        self._begun, self._last = begun, begun
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not total or now - self._last < (0.5 if self._is_terminal else 10.0):
            return
        self._last = now
        left = (now - self._begun) * (total - done) / done if done else 0.0
        text = f"{100 * done / total:.1f} %, {show_seconds(left)} left"
        click.echo(f"\r{text}   " if self._is_terminal else text, nl=not self._is_terminal, err=True)
