"""Every state, action and sentence of the engine's decisions."""

from __future__ import annotations

from dataclasses import replace

from rha.engine.state import DiskView, Resync, Wait, method_for, next_action, state_of

ORDERED = DiskView(
    name="root", is_trusted=True, in_data_mode=True, is_ordered=True, is_syncing=False, need="nothing", dirty_bytes=0
)
LOST = replace(
    ORDERED, in_data_mode=False, is_ordered=False, need="marked", dirty_bytes=1 << 20, loss="the ring was full at LSN 8"
)


def test_states_and_their_sentences() -> None:
    assert state_of(ORDERED) == ("write-order", "every write is in the stream, in order")
    syncing = replace(ORDERED, is_ordered=False, is_syncing=True, dirty_bytes=3 << 20, method="compare")
    assert state_of(syncing) == ("catching-up", "sync by comparison: 3 MiB not yet on the appliance")
    known = "1 MiB of changed ranges are known and wait for a resync"
    assert state_of(LOST) == ("bitmap", f"the ring was full at LSN 8; {known}")
    assert state_of(replace(LOST, is_trusted=False)) == ("unknown", "the ring was full at LSN 8")
    assert state_of(replace(LOST, is_trusted=False, loss="")) == (
        "unknown",
        "the image was never synced with this disk",
    )
    waiting = replace(ORDERED, is_ordered=False, need=None)
    assert state_of(waiting) == ("catching-up", "waits for the appliance; writes are in the ring, in order")


def test_an_ordered_disk_that_left_data_mode_is_not_in_write_order() -> None:
    assert state_of(replace(ORDERED, in_data_mode=False))[0] == "bitmap"


def test_method_is_the_weakest_that_makes_the_image_equal() -> None:
    assert method_for(ORDERED) is None
    assert method_for(LOST) == "marked"
    assert method_for(replace(LOST, is_trusted=False)) == "compare"
    assert method_for(replace(ORDERED, need="compare")) == "compare"
    assert method_for(replace(ORDERED, need="full")) == "full"


def test_actions_and_their_sentences() -> None:
    assert next_action([ORDERED], 1.0) == Wait("all disks are in write order")
    assert next_action([LOST], 1.0) == Resync((0,), ("marked",), "root: resync of changed ranges")
    assert next_action([LOST], 0.5) == Wait("root must be synced, once the ring has drained (50% free)")
    assert next_action([replace(LOST, need=None)], 1.0) == Wait("the appliance has not said yet what its images need")
    assert next_action([ORDERED, replace(LOST, is_syncing=True)], 1.0) == Wait("a resync is running")
    both = next_action([replace(LOST, name="a", need="full"), LOST], 1.0)
    assert both == Resync((0, 1), ("full", "marked"), "a, root: first sync and resync of changed ranges")
