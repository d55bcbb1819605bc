"""The demo's verdict: what may be missing, and what may not."""

from demo.judge import Found, Verdict, judge, promised_until
from demo.ledger import Ack, checksum, is_intact, payload
from rha.report import DiskReport, Point, Report

ACKS = [Ack(row, 100.0 + row, 10) for row in range(1, 11)]  # row 10 at 110.0


def verdict(rows: list[int], promise: float = 107.0, sent: int = 11) -> Verdict:
    return judge(ACKS, sent, Found(rows, [], []), promise, ended=112.0)


def report(
    role: str, *, time: float, lag: int | None = None, point: float | None = None, state: str = "write-order"
) -> Report:
    disk = DiskReport(name="root", device="/dev/x", bytes=1, state=state, why="", since=0.0)
    consistent = None if point is None else Point(lsn=1, time=point)
    return Report(
        role=role, scenario="demo", mode="ha", time=time, health="ok", state="", why="", disks=[disk], lag_bytes=lag,
        consistent=consistent,
    )  # fmt: skip


def test_nothing_lost() -> None:
    seen = verdict(list(range(1, 11)))
    assert seen.why_not() is None
    assert (list(seen.lost), seen.rpo_seconds) == ([], 0.0)


def test_row_in_doubt_may_be_there() -> None:
    assert verdict(list(range(1, 12))).why_not() is None


def test_loss_inside_the_window_is_allowed_and_measured() -> None:
    seen = verdict(list(range(1, 8)))
    assert seen.why_not() is None
    assert (list(seen.lost), seen.rpo_seconds) == ([8, 9, 10], 4.0)


def test_loss_of_what_was_promised_is_not() -> None:
    seen = verdict(list(range(1, 7)))
    assert list(seen.broken_promises) == [7]
    assert seen.why_not() == "1 commits are missing that the appliance had reported as held (first: 7)"


def test_gap_is_never_allowed() -> None:
    seen = verdict([1, 2, 3, 4, 5, 6, 7, 9])
    assert list(seen.gaps) == [8]
    assert seen.why_not() == "1 rows are missing below the last one (first: 8)"


def test_row_nobody_sent() -> None:
    assert list(verdict([*range(1, 11), 12]).invented) == [12]


def test_empty_table_loses_everything() -> None:
    assert list(verdict([], promise=0.0).lost) == list(range(1, 11))
    assert verdict([], promise=0.0).rpo_seconds == 11.0


def test_promise_is_the_latest_of_all_reports() -> None:
    reports = [report("engine", time=5.0, lag=0), report("appliance", time=9.0, point=7.0)]
    assert promised_until(reports, asked_at=6.0) == 7.0


def test_engine_with_lag_promises_nothing() -> None:
    assert promised_until([report("engine", time=5.0, lag=1), report("engine", time=5.0)], asked_at=6.0) == 0.0


def test_engine_out_of_write_order_promises_nothing() -> None:
    assert promised_until([report("engine", time=5.0, lag=0, state="catching-up")], asked_at=6.0) == 0.0


def test_answer_promises_nothing_about_the_time_after_the_question() -> None:
    assert promised_until([report("engine", time=5.0, lag=0)], asked_at=4.0) == 4.0


def test_row_is_a_function_of_its_number() -> None:
    content = payload(7)
    assert content == payload(7) != payload(8)
    assert is_intact(7, checksum(content), content)


def test_other_row_with_a_right_checksum_is_not_intact() -> None:
    content = payload(8)
    assert not is_intact(7, checksum(content), content)


def test_damaged_payload_is_not_intact() -> None:
    content = payload(7)
    assert not is_intact(7, checksum(content), content[:-1] + bytes([content[-1] ^ 1]))
