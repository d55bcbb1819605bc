"""The verdict on a scene of `make lab`: what may be missing, who may have written, and where clients must end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.judge import Held, Journey, Row, Sites, Story, Verdict, judge, judge_journey
from lab.ledger import Attempt, acknowledged, read

MASTER, SUBSTITUTE, BEHIND = "10.77.0.10", "10.77.0.1", "10.0.2.15"
# Rows 1 to 5 at the master, acknowledged at 101 to 105; 6 without an answer; 7 and 8 at the substitute, at 127 and 128.
LEDGER = [
    *(Attempt(row, 100.0 + row - 0.1, MASTER, acked=100.0 + row) for row in range(1, 6)),
    Attempt(6, 105.9, MASTER, why="no answer"),
    *(Attempt(row, 120.0 + row - 0.1, SUBSTITUTE, acked=120.0 + row) for row in (7, 8)),
]


def held(rows: Sequence[int], server: str = MASTER) -> dict[Row, str]:
    return {("west", row): server for row in rows}


def verdict(
    master_rows: Sequence[int] = range(1, 6),
    served_rows: Sequence[int] = (7, 8),
    *,
    promise: float = 103.0,
    more: Mapping[str, Sequence[Attempt]] | None = None,
    on_master: Mapping[Row, str] | None = None,
    damaged: Sequence[Row] = (),
    ends: Sequence[str] = ("west",),
) -> Verdict:
    """`master_rows`, `served_rows`: what the substitute holds of each one's rows."""
    substitute = Held({**held(master_rows), **held(served_rows, BEHIND)}, damaged, [])
    master = Held(on_master if on_master is not None else held(range(1, 7)), [], [])
    attempts = {"west": LEDGER, **(more or {})}
    return judge(Story(Sites(MASTER, SUBSTITUTE, BEHIND), attempts, substitute, master, promise, 106.0, ends))


def faults(found: Verdict) -> str:
    return "; ".join(found.faults)


def test_all_is_there() -> None:
    found = verdict()
    assert (found.acknowledged, found.lost, found.rpo_seconds, faults(found)) == (7, 0, 0.0, "")


def test_the_last_commits_may_be_missing_and_are_measured() -> None:
    found = verdict([1, 2, 3])
    assert (found.lost, found.rpo_seconds, faults(found)) == (2, 2.0, "")


def test_a_row_without_an_answer_may_be_there() -> None:
    assert faults(verdict(range(1, 7))) == ""


def test_what_was_promised_must_be_there() -> None:
    assert "1 commits are missing that the appliance said it held (first: 3)" in faults(verdict([1, 2]))


def test_a_hole_is_no_state_of_the_master() -> None:
    assert "row 4 is missing, and row 5, committed after it, is there" in faults(verdict([1, 2, 3, 5]))


def test_the_substitute_keeps_what_it_acknowledged() -> None:
    assert "1 commits of the substitute are missing in it (first: 7)" in faults(verdict(served_rows=[8]))


def test_rows_that_nobody_sent() -> None:
    assert "substitute: 1 rows were never sent" in faults(verdict(served_rows=[7, 8, 9]))


def test_rows_with_other_content() -> None:
    assert "substitute: 1 rows hold something else than was sent" in faults(verdict(damaged=[("west", 2)]))


def test_a_master_that_serves_on_is_a_second_writer() -> None:
    clinging = [Attempt(1, 130.0, MASTER, acked=130.1)]
    found = faults(verdict(more={"other": clinging}, on_master={**held(range(1, 7)), ("other", 1): MASTER}))
    assert "the master acknowledged 1 commits after the substitute had its first" in found
    assert "1 rows on the master's disks were sent after the substitute began to serve" in found


def test_a_master_that_wrote_without_an_answer_is_one_too() -> None:
    unanswered = [Attempt(1, 130.0, MASTER, why="no answer")]
    found = faults(verdict(more={"other": unanswered}, on_master={("other", 1): MASTER}))
    assert "two writers: 1 rows on the master's disks" in found


def test_one_row_on_both_sides() -> None:
    assert "1 rows were committed on both sides" in faults(verdict(on_master=held([7])))


def test_the_substitutes_rows_on_the_masters_disks() -> None:
    assert "1 rows of the substitute are on the master's disks" in faults(verdict(on_master=held([7], BEHIND)))


def test_a_client_that_must_end_on_the_substitute() -> None:
    lost = [Attempt(1, 101.0, MASTER, acked=101.5)]
    assert "other: does not end on the substitute (10.77.0.10)" in faults(
        verdict([1, 2, 3, 4, 5], more={"other": lost}, ends=["other"])
    )


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "client.jsonl"
    file.write_bytes(b'{"id":1,"sent":1.0,"address":"a","acked":1.5}\n{"id":2,"sent":2.0,"address":"a"}\n{"id":3,"se')
    found = read(file)
    assert [one.id for one in found] == [1, 2]
    assert [one.id for one in acknowledged(found, "a")] == [1]
    assert read(tmp_path / "none") == []


HOME = [*LEDGER, Attempt(9, 140.0, MASTER, why="no answer"), Attempt(10, 150.0, MASTER, acked=150.1)]
ALL_HOME = {**held([1, 2, 3, 4, 5, 10]), **held([7, 8], BEHIND)}


def journey(held_rows: Mapping[Row, str], ledger: Sequence[Attempt] = HOME) -> Verdict:
    return judge_journey(Journey(Sites(MASTER, SUBSTITUTE, BEHIND), {"west": ledger}, Held(held_rows, [], [])))


def test_there_and_back_keeps_all() -> None:
    found = journey(ALL_HOME)
    assert (found.acknowledged, found.lost, faults(found)) == (8, 0, "")


def test_a_commit_of_the_substitute_that_did_not_come_home_is_told() -> None:
    found = journey({row: server for row, server in ALL_HOME.items() if row != ("west", 8)})
    assert found.lost == 1
    assert "1 acknowledged commits are missing (first: ('west', 8))" in faults(found)


def test_a_way_home_that_was_no_way_is_told() -> None:
    assert "acknowledged by 10.77.0.10, then 10.77.0.1" in faults(journey(ALL_HOME, LEDGER))
    beside = [*HOME, Attempt(11, 160.0, SUBSTITUTE, acked=160.1)]
    assert "not there and back" in faults(journey({**ALL_HOME, **held([11], BEHIND)}, beside))


def test_a_row_that_another_has_made_is_told() -> None:
    assert "made by another than who acknowledged them (first: ('west', 7))" in faults(
        journey({**ALL_HOME, ("west", 7): MASTER})
    )
