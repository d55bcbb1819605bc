"""Scripts: real programs, run as another user, that veto, hang, flood and leave children behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rha.errors import ConfigError, HostError, StateError
from rha.redirect.base import Act, Memory, Place
from rha.redirect.script import Script
from rha.scenario import Duration, RunScript
from tests.redirect.wires import eventually

pytestmark = pytest.mark.root


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Script]:
    """`script(text, …)`: a redirection that runs a shell script of that text."""
    scripts = tmp_path / "scripts"
    scripts.mkdir(mode=0o755)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)  # the script's user must reach it

    def make(text: str, **words: object) -> Script:
        (scripts / "s").write_text(f"#!/bin/sh\n{text}\n")
        (scripts / "s").chmod(0o755)
        place = Place(scenario="web", side="replica", memory=tmp_path / "memory", scripts=scripts)
        table = {"run": "s", "limit": Duration(10), **words}
        return Script(RunScript(**table), place, Memory(tmp_path / "memory" / "0-script.json"))

    return make


def is_gone(pid: int) -> bool:
    """Ended; a zombie counts, its parent here may reap nobody."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_user_environment_and_output(script: Callable[..., Script]) -> None:
    one = script("id -un; id -G; env | sort; pwd; cat", at="before")
    assert one.do(Act.CHECK) == [f"{one.path} can be run as nobody"]
    one.do(Act.APPLY)
    said = one.log.read_text().splitlines()
    assert said[0] == "nobody"
    assert said[1].split() == [str(group) for group in os.getgrouplist("nobody", 65534)]
    rha = [line for line in said if line.startswith("RHA_")]
    assert rha == ["RHA_ACT=apply", "RHA_AT=before", "RHA_DRY_RUN=0", "RHA_LIMIT=10",
                   "RHA_SCENARIO=web", "RHA_SIDE=replica"]  # fmt: skip
    assert said[-1] == "/"
    assert one.log.stat().st_mode & 0o777 == 0o600
    one.do(Act.REVERT)
    assert "RHA_ACT=revert" in one.log.read_text()
    assert one.do(Act.REVERT) == ["s: was not run"]


def test_veto_with_its_words(script: Callable[..., Script]) -> None:
    one = script("echo the backup still runs >&2; exit 3", at="before")
    with pytest.raises(StateError, match=r"script s vetoes \(exit code 3\)") as veto:
        one.do(Act.APPLY)
    assert veto.value.cause == "it said: the backup still runs"
    assert one.do(Act.REVERT) == ["s: was not run"]


def test_dry_run_only_with_its_flag(script: Callable[..., Script], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script(f"touch {mark}", user="root").do(Act.CHECK)
    assert not mark.exists()
    script(f'echo "$RHA_DRY_RUN $RHA_ACT" > {mark}', user="root", dry_run=True).do(Act.CHECK)
    assert mark.read_text() == "1 apply\n"
    with pytest.raises(StateError, match="exit code 1"):
        script("exit $RHA_DRY_RUN", dry_run=True).do(Act.CHECK)


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_one_that_hangs_is_killed_with_its_children(script: Callable[..., Script], tmp_path: Path, trap: str) -> None:
    folder = tmp_path / "pids"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    child = f"sh -c '{trap}echo $$ > {folder}/child; while :; do sleep 60; done' &"
    back = f'[ "$RHA_ACT" = revert ] && exec touch {folder}/reverted'
    text = f"{back}\n{trap}{child}\necho $$ > {folder}/self; sleep 60; sleep 60"
    one = script(text, limit=Duration(1))
    begun = time.monotonic()
    with pytest.raises(StateError, match=r"ran longer than 1 s; it was killed") as killed:
        one.do(Act.APPLY)
    assert time.monotonic() - begun < 8
    assert killed.value.cause.endswith("then run with RHA_ACT=revert")
    assert (folder / "reverted").exists()
    for name in ("self", "child"):
        eventually(lambda name=name: is_gone(int((folder / name).read_text())))


def test_a_script_that_ends_and_leaves_a_child_is_not_waited_for(script: Callable[..., Script]) -> None:
    begun = time.monotonic()
    one = script("sleep 30 & echo $!")
    one.do(Act.APPLY)
    assert time.monotonic() - begun < 5
    os.kill(int(one.log.read_text()), 9)


def test_a_flood_is_stopped(script: Callable[..., Script]) -> None:
    with pytest.raises(StateError, match="wrote more than 1048576 bytes"):
        script('[ "$RHA_ACT" = revert ] || yes').do(Act.APPLY)


def test_what_others_could_have_written_is_not_run(script: Callable[..., Script]) -> None:
    one = script("exit 0")
    one.path.chmod(0o775)
    with pytest.raises(ConfigError, match="is not run") as refused:
        one.do(Act.CHECK)
    assert "mode 0775" in refused.value.cause
    one.path.chmod(0o755)
    os.chown(one.path, 65534, 65534)
    for act in (Act.CHECK, Act.APPLY):
        with pytest.raises(ConfigError, match="is not run"):
            one.do(act)
    os.chown(one.path, 0, 0)
    one.path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="is not run"):
        one.do(Act.CHECK)


def test_what_cannot_be_run(script: Callable[..., Script]) -> None:
    with pytest.raises(HostError, match="has no user nobody-here"):
        script("", user="nobody-here").do(Act.CHECK)
    one = script("")
    one.path.chmod(0o644)
    with pytest.raises(ConfigError, match="cannot be run"):
        one.do(Act.CHECK)
    one.path.unlink()
    with pytest.raises(ConfigError, match="cannot be run"):
        one.do(Act.CHECK)
    one.path.symlink_to("/bin/true")
    with pytest.raises(ConfigError):
        one.do(Act.CHECK)
    one.path.unlink()
    one.path.write_text("#!/no/such/interpreter\n")
    one.path.chmod(0o755)
    with pytest.raises(HostError, match="does not start"):
        one.do(Act.APPLY)
