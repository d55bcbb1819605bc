"""Which scenario allows which redirection: the product's table, written here once more as it is published."""

from __future__ import annotations

from typing import get_args

import pytest

from rha.scenario import Kind, RunScript, Scenario, TakeAlias, from_plain
from rha.scenario_redirect import REFUSED, absolute_name, rules, warnings

# scenario: move IP, computer name, DNS, alias, script
TABLE = {
    "file-server": "yes yes yes yes yes",
    "sql": "yes yes yes yes yes",
    "mail": "yes no yes yes yes",
    "web": "yes yes yes yes yes",
    "oracle": "yes no yes yes yes",
    "vm-manager": "yes yes yes yes yes",
    "hypervisor": "no no yes no yes",
    "full-system": "no no yes no yes",
}
TYPES = ("ip", "hostname", "dns", "alias", "script")


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("column", range(5), ids=TYPES)
def test_table(kind: str, column: int) -> None:
    allowed = TABLE[kind].split()[column] == "yes"
    found = list(rules({"kind": kind, "redirect": [{"type": TYPES[column]}]}))
    assert [mistake.path for mistake in found] == ([] if allowed else ["redirect[0].type"])
    assert all(len(mistake.text.partition(": ")[2]) > 20 for mistake in found), "the reason is missing"


def test_every_kind_has_its_row() -> None:
    assert set(REFUSED) == set(get_args(Kind)) == set(TABLE)


def scenario(**words: object) -> Scenario:
    appliance = {"address": "a:1", "ca": "/a", "certificate": "/b", "key": "/c"}
    plain = {"name": "web", "disk": [{"name": "root", "device": "/dev/vda"}], "appliance": appliance, **words}
    return from_plain(plain)


def test_an_alias_outside_a_file_server_is_a_warning() -> None:
    alias = {"type": "alias", "names": ["FILES"]}
    assert "accepts connections by another name" in warnings(scenario(kind="sql", redirect=[alias]))[0]
    assert warnings(scenario(kind="file-server", redirect=[alias])) == []


def test_tables_are_told_apart_by_their_type() -> None:
    loaded = scenario(kind="web", redirect=[{"type": "alias", "names": ["A"]}, {"type": "script", "run": "x"}])
    assert [type(table) for table in loaded.redirect] == [TakeAlias, RunScript]


@pytest.mark.parametrize("name", ["www", "www.example.org", "www.example.org.", "WWW.example.org"])
def test_names_below_a_zone(name: str) -> None:
    assert absolute_name(name, "example.org.").lower() == "www.example.org."


def test_the_zone_itself() -> None:
    assert absolute_name("example.org", "example.org") == "example.org."
