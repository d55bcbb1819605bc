"""What a sync says of itself when it is over."""

from __future__ import annotations

from rha.engine.progress import SyncProgress


def test_the_summary_names_what_was_read_compared_sent_and_left_out() -> None:
    progress = SyncProgress("compare", source="ext4 on vda1: 2 MiB free")
    progress.read_bytes, progress.compared_bytes, progress.left_out_bytes = 5 << 20, 5 << 20, 2 << 20
    progress.advance(5 << 20, 64 << 10)
    said = progress.summary()
    assert said.startswith(
        "sync by comparison: read 5 MiB, compared 5 MiB, sent 64 KiB, left out 2 MiB of free space, in "
    )
    assert said.endswith(" (ext4 on vda1: 2 MiB free)")
    report = progress.as_report()
    assert (report.read_bytes, report.compared_bytes, report.sent_bytes, report.left_out_bytes) == (
        5 << 20,
        5 << 20,
        64 << 10,
        2 << 20,
    )


def test_the_summary_of_a_full_sync_says_only_what_there_was() -> None:
    progress = SyncProgress("full")
    progress.read_bytes = 1 << 20
    progress.advance(1 << 20, 1 << 20)
    assert progress.summary().startswith("first sync: read 1 MiB, sent 1 MiB, in ")


def test_the_summary_says_what_was_only_waited_for() -> None:
    progress = SyncProgress("compare", waited_seconds=4.6)
    assert ", 4.6 s of them until earlier writes had surely ended" in progress.summary()
    assert progress.as_report().waited_seconds == 4.6
    progress.waited_seconds = 0.04
    assert "surely" not in progress.summary()
