"""Sample scenario files: good ones load, bad ones are refused with exactly the mistakes that they announce."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from rha import scenario, scenario_check, schema
from rha.errors import ConfigError, Exit

HERE = Path(__file__).parent
GOOD = sorted((HERE / "good").glob("*.toml"))
BAD = sorted((HERE / "bad").glob("*.toml"))


def expected(path: Path, word: str) -> list[str]:
    mark = f"# {word}: "
    return [line.removeprefix(mark) for line in path.read_text().splitlines() if line.startswith(mark)]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_file_loads_and_travels(path: Path) -> None:
    loaded = scenario_check.load(path)
    assert scenario.from_plain(scenario.to_plain(loaded)) == loaded


@pytest.mark.parametrize("path", [path for path in BAD if path.stem != "syntax"], ids=lambda path: path.stem)
def test_bad_file_shows_each_mistake_once(path: Path) -> None:
    found = schema.mistakes(schema.read(path), scenario.Scenario, scenario_check.rules)
    assert sorted(map(str, found)) == sorted(expected(path, "expect"))


def test_refusal_lists_all_ten_mistakes() -> None:
    path = HERE / "bad" / "ten-mistakes.toml"
    with pytest.raises(ConfigError) as refused:
        scenario_check.load(path)
    assert refused.value.what == f"{path} has 10 mistakes"
    assert len(refused.value.cause.splitlines()) == 10
    assert refused.value.code is Exit.CONFIG


def test_syntax_error_names_its_line() -> None:
    path = HERE / "bad" / "syntax.toml"
    with pytest.raises(ConfigError, match="is not valid TOML") as refused:
        scenario_check.load(path)
    assert expected(path, "expect-syntax")[0] in refused.value.cause


def test_units_become_numbers() -> None:
    loaded = scenario_check.load(HERE / "good" / "most.toml")
    assert loaded.capture.ring == 64 << 20
    assert (loaded.link.heartbeat, loaded.link.lost_after) == (0.5, 2.5)
    assert loaded.vm.ready_timeout == 600


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        scenario_check.load(tmp_path / "none.toml")


def test_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"name = \xff\xfe")
    with pytest.raises(ConfigError, match="is not a text"):
        scenario_check.load(path)


def test_every_default_satisfies_the_rules() -> None:
    """The shortest file leaves everything to the defaults; no rule may refuse one of them."""
    data = schema.read(HERE / "good" / "least.toml")
    assert schema.mistakes(data, scenario.Scenario, scenario_check.rules) == []


def test_the_samples_test_is_right_when_uncommented() -> None:
    text = resources.files("rha").joinpath("scenario_sample.toml").read_text(encoding="utf-8")
    head, _, tail = text.partition("# The test that disturbs nothing")
    lines = re.findall(r"^# (\[+test.*|[a-z]+ = .*)$", tail.partition("# What rha bookmark")[0], re.M)
    data = tomllib.loads(head + "\n".join(lines))
    assert schema.mistakes(data, scenario.Scenario, scenario_check.rules) == []
    assert [check["kind"] for check in data["test"]["check"]] == ["tcp", "console", "agent"]
    assert set(data["test"]) == {field.encode_name for field in msgspec.structs.fields(scenario.BootTest)}


def test_the_samples_redirections_are_right_when_uncommented() -> None:
    text = resources.files("rha").joinpath("scenario_sample.toml").read_text(encoding="utf-8")
    head, _, tail = text.partition("# Redirections:")
    lines = [line.removeprefix("# ") for line in tail.splitlines() if re.match(r"# (\[\[redirect]]|[a-z_]+ = )", line)]
    data = tomllib.loads(head + "\n".join(lines)) | {"kind": "file-server"}
    assert schema.mistakes(data, scenario.Scenario, scenario_check.rules) == []
    assert {table["type"] for table in data["redirect"]} == {"ip", "hostname", "dns", "alias", "script"}
