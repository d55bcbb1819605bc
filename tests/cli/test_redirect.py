"""`rha redirect` as a person at night uses it, with a real BIND behind."""

import io

import pytest

from rha.appliance import catalog
from rha.cli import main
from rha.errors import Exit
from rha.scenario import Appliance, Disk, RewriteDns, Scenario
from tests.redirect.conftest import named, new_named  # noqa: F401

WWW = "www.example.org"


@pytest.fixture
def rha(tmp_path, named, capsys):  # noqa: F811
    """`rha("apply", …)` → exit code, standard output, standard error; the appliance knows scenario web1."""
    table = RewriteDns(servers=[named.address], zone="example.org", name="www", key=str(named.key),
                       master=["192.0.2.10", "2001:db8::10"], replica=["192.0.2.20"])  # fmt: skip
    scenario = Scenario(
        name="web1",
        disk=[Disk(name="root", device="/dev/vda")],
        appliance=Appliance(address="a:1", ca="/a", certificate="/b", key="/c"),
        redirect=[table],
    )
    (tmp_path / "store" / "web1").mkdir(parents=True)
    catalog.save_scenario(tmp_path / "store" / "web1", scenario)

    def run(act: str, *words: str, name: str = "web1"):
        code = main.run(["redirect", act, name, "--store", str(tmp_path / "store"), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_night(rha, named) -> None:  # noqa: F811
    serial = named.serial()
    code, out, _ = rha("check")
    assert (code, "updates are accepted" in out) == (0, True)
    code, out, _ = rha("apply", "--dry-run")
    assert code == 0
    assert out.splitlines()[:2] == [
        "web1, replica: nothing is redirected",
        f"  1. rewrite {WWW}. to A 192.0.2.20 at {named.address}",
    ]
    assert named.serial() == serial
    code, _, err = rha("verify")
    assert (code, err.splitlines()[0]) == (Exit.STATE, "error: clients are not redirected")
    code, out, _ = rha("apply", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "redirections applied")
    assert rha("verify")[0] == 0
    code, out, _ = rha("revert", "--dry-run")
    assert out.splitlines()[0] == "web1, replica: redirections applied"
    assert named.dig(WWW) == ["192.0.2.20"]
    assert rha("revert", "--yes")[0] == 0
    assert named.dig(WWW) == ["192.0.2.10"]


@pytest.mark.parametrize("act", ["apply", "revert"])
def test_without_a_terminal_it_asks_for_yes(rha, named, act, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = rha(act)
    assert code == Exit.STATE
    assert f"hint: rha redirect {act} web1 --side replica --yes" in err
    assert named.dig(WWW) == ["192.0.2.10"]


def test_what_cannot_be_reverted_can_be_forgotten(rha, named) -> None:  # noqa: F811
    rha("apply", "--yes")
    named.stop()
    code, _, err = rha("revert", "--yes")
    assert code == Exit.NETWORK
    assert "some redirections are not reverted" in err
    code, out, _ = rha("revert", "--yes", "--forget")
    assert code == 0
    assert "forgotten: 0-dns.json" in out
    assert "nothing is redirected" in rha("apply", "--dry-run")[1]


def test_a_scenario_that_nobody_knows(rha) -> None:
    code, _, err = rha("check", name="web2")
    assert code == Exit.CONFIG
    assert err.startswith("error: there is no scenario 'web2'\ncause: ")


def test_the_masters_side(rha) -> None:
    code, out, _ = rha("apply", "--side", "master", "--yes")
    assert code == 0
    assert "nothing: www.example.org. is rewritten by the appliance" in out
