"""The `rha` command. A verb's module is imported when the verb is used: `rha status` pays for nothing else."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from rha import __version__
from rha.errors import Exit, RhaError

BUG = 70  # sysexits.h EX_SOFTWARE; Python's own 1 would read as an answer ("different")
INTERRUPTED = 128 + 2  # as a shell reports SIGINT
BROKEN_PIPE = 128 + 13  # as a shell reports SIGPIPE

VERBS = {
    "engine": "Protect this host: capture and ship the writes of a scenario's disks.",
    "appliance": "Receive scenarios, keep their images, start substitute VMs.",
    "observe": "Tell appliances what this host sees of their masters.",
    "status": "Show what every daemon of this host says.",
    "history": "Show a scenario's switches, or how the states of its disks changed.",
    "verify": "Compare the master's disks with the appliance's images.",
    "sync": "Carry a first sync to the appliance on a removable medium.",
    "points": "Show the points in time that a scenario can be shown at.",
    "bookmark": "Give a point a name.",
    "mount": "Mount the file systems of a point, read-only.",
    "umount": "End a mount that `rha mount` has made.",
    "diff": "Show what differs between two points.",
    "restore": "Copy a file or directory out of a point.",
    "rewind": "Take the replica itself back to a point.",
    "export": "Write a disk of a point as an image file.",
    "test": "Boot a point on an isolated network, check it, throw it away.",
    "tests": "List the test boots of a scenario whose reports are kept.",
    "failover": "The master is dead: start its substitute VM now.",
    "switchover": "The master hands its service over to its substitute VM, and nothing is lost.",
    "switchback": "Bring the substitute's disks home to the repaired master.",
    "receive": "Offer a repaired master's disks to the appliance: they become what the substitute has.",
    "split": "Show what a master and its substitute each wrote alone, and the ways out.",
    "discard": "End a failover or switchover: remove the substitute VM, keep what it wrote aside.",
    "kept": "List what discarded substitutes wrote, or remove it.",
    "pause": "Maintenance: the appliance watches and does nothing by itself.",
    "resume": "End what `rha pause` has begun.",
    "redirect": "Lead clients to the substitute, or back.",
    "scenario": "Show a sample scenario, or check a file.",
    "pki": "Make certificates for appliance and masters.",
    "doctor": "Is this host fit to be a master, or an appliance?",
}


class Verbs(click.Group):
    """Sub-commands by name: `rha NAME` is `rha.cli.NAME.command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"rha.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rha")
def cli() -> None:
    """Real-time replication and high availability for Linux servers."""


def main() -> NoReturn:
    """Console script."""
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Runs one command line and returns its exit code (`rha.errors.Exit`, docs/errors.md).

    The one place where errors become words on standard error.
    """
    try:
        with cli.make_context("rha", list(words)) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
        return result if isinstance(result, int) else Exit.OK
    except RhaError as error:
        return _told(error)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _without_reader()
    except Exception:  # noqa: BLE001 - a bug; it must not end with 1, which is an answer
        traceback.print_exc()
        print("error: this is a bug in rha; please report the lines above", file=sys.stderr)
        return BUG


def _told(error: RhaError) -> int:
    sys.stdout.flush()
    print(error, file=sys.stderr)
    return error.code


def _without_reader() -> int:
    """Nobody reads our output (`rha status | head -1`): the rest goes nowhere, so that Python's exit is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
