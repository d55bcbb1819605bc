"""The command line as a user meets it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rha.cli import main
from rha.errors import DeviceError, Exit

RHA = [sys.executable, "-c", "from rha.cli.main import main; main()"]
HEAVY = {"rich", "numpy", "cryptography", "tomllib", "asyncio", "bcc", "nbd", "libvirt", "ssl"}


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_a_manual(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([verb, "--help"]) == 0
    assert f"Usage: rha {verb}" in capsys.readouterr().out


def test_one_line_help_is_the_manual_s_first_line() -> None:
    for verb, line in main.VERBS.items():
        command: click.Command = importlib.import_module(f"rha.cli.{verb}").command
        assert (command.help or "").splitlines()[0] == line


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["reboot"]) == Exit.USAGE
    assert "No such command 'reboot'" in capsys.readouterr().err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(main.Verbs, "get_command", lambda self, context, name: command)


def test_refusal_becomes_three_lines_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, DeviceError("no disk", cause="gone", hint="lsblk"))
    assert main.run(["engine"]) == Exit.DEVICE
    assert capsys.readouterr() == ("", "error: no disk\ncause: gone\nhint: lsblk\n")


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert main.run(["engine"]) == main.INTERRUPTED


def test_bug_does_not_look_like_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, ZeroDivisionError("oops"))
    assert main.run(["engine"]) == main.BUG
    assert "ZeroDivisionError: oops" in capsys.readouterr().err


def test_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*RHA, "scenario", "sample"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (main.BROKEN_PIPE, "")


def test_status_imports_nothing_heavy(tmp_path: Path) -> None:
    """The reason why `rha status` is fast; its time is measured in the benchmark."""
    code = f"""
import sys
from rha.cli import main
main.run(["status"])
print(*sorted(set(sys.modules) & {HEAVY!r}))
"""
    environment = {**os.environ, "RHA_RUN_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "No rha daemon runs on this host.\n\n"


def test_watch_ends_with_ctrl_c(tmp_path: Path) -> None:
    environment = {**os.environ, "RHA_RUN_DIR": str(tmp_path)}
    words = ["env", "--default-signal=INT", *RHA, "status", "--watch"]  # a shell's background jobs ignore it
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == main.INTERRUPTED
