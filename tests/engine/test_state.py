"""Every state, action and sentence of the engine's decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rha.capture.shared import LOSSES
from rha.engine.state import (
    KEEPS_RANGES,
    LOSES_RANGES,
    REASONS,
    Cause,
    DiskView,
    Policy,
    Resync,
    Wait,
    method_for,
    next_action,
    state_of,
)

ORDERED = DiskView(
    name="root", is_trusted=True, in_data_mode=True, is_ordered=True, is_syncing=False, need="nothing", dirty_bytes=0
)
LOST = replace(
    ORDERED,
    in_data_mode=False,
    is_ordered=False,
    need="marked",
    dirty_bytes=1 << 20,
    cause=Cause("ring-full", "3 writes from LSN 8 on"),
)
REBOOTED = replace(LOST, is_trusted=False, cause=Cause("reboot", "boot 1 then, 2 now"))
KNOWN = "1 MiB of changed ranges are known and wait for a resync"


def test_states_and_their_sentences() -> None:
    assert state_of(ORDERED) == ("write-order", "synced", "every write is in the stream, in order")
    syncing = replace(REBOOTED, is_syncing=True, dirty_bytes=3 << 20, method="compare")
    assert state_of(syncing) == ("catching-up", "reboot", "sync by comparison: 3 MiB not yet on the appliance")
    assert state_of(LOST) == ("bitmap", "ring-full", f"the ring was full (3 writes from LSN 8 on); {KNOWN}")
    assert state_of(REBOOTED) == ("unknown", "reboot", "the host was restarted (boot 1 then, 2 now)")
    never = replace(REBOOTED, cause=None)
    assert state_of(never) == ("unknown", "image-new", "the image was never synced with this disk")
    waiting = replace(ORDERED, is_ordered=False, need=None)
    assert state_of(waiting) == (
        "catching-up",
        "waiting",
        "waits for the appliance; writes are in the ring, in order",
    )


def test_an_ordered_disk_that_left_data_mode_is_not_in_write_order() -> None:
    assert state_of(replace(ORDERED, in_data_mode=False)).state == "bitmap"


def test_a_broken_resync_is_no_order_even_in_data_mode() -> None:
    assert state_of(replace(LOST, in_data_mode=True)).state == "bitmap"


def test_trouble_of_the_device_outweighs_everything() -> None:
    gone = replace(ORDERED, trouble=Cause("removed", "/dev/sdb: No such file or directory"))
    assert state_of(gone) == ("unknown", "removed", "the device is gone (/dev/sdb: No such file or directory)")
    assert method_for(gone) is None
    assert next_action([gone], 1.0) == Wait(
        "no resync helps: root: the device is gone (/dev/sdb: No such file or directory)"
    )


@pytest.mark.parametrize("reason", LOSES_RANGES)
def test_what_loses_ranges_is_unknown(reason: str) -> None:
    verdict = state_of(replace(REBOOTED, cause=Cause(reason)))
    assert (verdict.state, verdict.reason) == ("unknown", reason)
    assert REASONS[reason] in verdict.why


@pytest.mark.parametrize("reason", KEEPS_RANGES)
def test_what_keeps_ranges_is_bitmap(reason: str) -> None:
    verdict = state_of(replace(LOST, cause=Cause(reason)))
    assert (verdict.state, verdict.reason) == ("bitmap", reason)
    assert REASONS[reason] in verdict.why


def test_every_loss_of_the_probe_has_a_reason() -> None:
    assert {name for name, _ in LOSSES} == set(KEEPS_RANGES)


def test_method_is_the_cheapest_that_makes_the_image_equal() -> None:
    assert method_for(ORDERED) is None
    assert method_for(LOST) == "marked"
    assert method_for(REBOOTED) == "compare"
    assert method_for(replace(ORDERED, need="compare")) == "compare"
    assert method_for(replace(ORDERED, need="full")) == "volume"


POLICIES = {  # what a new image and one of unknown age get, and whether free space is left out
    "auto": ("volume", "compare", True),
    "volume": ("volume", "volume", True),
    "block": ("full", "compare", False),
    "full": ("full", "full", False),
}


def test_a_new_image_may_wait_for_a_medium() -> None:
    new = replace(LOST, need="full")
    wait = Wait("root: the first sync comes by medium: rha sync import on the appliance")
    assert next_action([new], 1.0, "offline") == wait
    assert method_for(REBOOTED, "offline") == "compare"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_scenario_may_say_how(policy: Policy) -> None:
    new, old, skips = POLICIES[policy]
    assert method_for(replace(ORDERED, need="full"), policy) == new
    assert method_for(REBOOTED, policy) == old
    assert method_for(LOST, policy) == "marked"
    action = next_action([REBOOTED], 1.0, policy)
    assert isinstance(action, Resync)
    assert (action.methods, action.skips_free) == ((old,), skips)


def test_a_broken_comparison_goes_on_comparing() -> None:
    assert method_for(replace(LOST, is_suspected=True)) == "compare"


def test_actions_and_their_sentences() -> None:
    assert next_action([ORDERED], 1.0) == Wait("all disks are in write order")
    assert next_action([LOST], 1.0) == Resync((0,), ("marked",), "root: resync of changed ranges", True)
    assert next_action([LOST], 0.5) == Wait("root must be synced, once the ring has drained (50% free)")
    assert next_action([replace(LOST, need=None)], 1.0) == Wait("the appliance has not said yet what its images need")
    assert next_action([ORDERED, replace(LOST, is_syncing=True)], 1.0) == Wait("a resync is running")
    both = next_action([replace(LOST, name="a", need="full"), LOST], 1.0)
    assert both == Resync(
        (0, 1), ("volume", "marked"), "a, root: resync of changed ranges and sync of used blocks", True
    )
