"""More writes than ring: the loss is counted, order is left and found again, and nobody calls a mixture consistent."""

import threading
from typing import Any

import pytest
from lab import MIB, Appliance, Lab, wait_for
from writers import RawWriter

pytestmark = pytest.mark.root


class Observer(threading.Thread):
    """Asks the appliance all the time; `seen`: its answers."""

    def __init__(self, appliance: Appliance, name: str) -> None:
        super().__init__(daemon=True)
        self.appliance, self.name = appliance, name
        self.seen: list[dict[str, Any]] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.02):
            self.seen.append(self.appliance.report(self.name))


def test_tiny_ring_overflows_and_recovers(lab: Lab) -> None:
    disk = lab.disk(96 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], ring="4MiB")
    engine.start()
    engine.wait_ordered()
    observer = Observer(lab.appliance, engine.name)
    observer.start()
    with RawWriter(disk.path, longest=2 * MIB, pause=0) as writer:
        wait_for(lambda: engine.losses().get("ring-full"), 30, engine.report)
        wait_for(lambda: engine.state() != "write-order", 5, engine.report)
        wait_for(lambda: lab.appliance.report(engine.name)["state"] == "inconsistent", 20, lab.appliance.log)
        assert writer.count
    engine.wait_ordered()
    lab.appliance.wait_applied(engine.name)
    observer.done.set()
    observer.join()
    assert set(engine.losses()) == {"ring-full"}
    broken = [one for one in observer.seen if one["state"] == "inconsistent"]
    assert broken
    assert all(one["consistent"] is None for one in broken)
    assert any("ring-full" in one["why"] for one in broken), {one["why"] for one in broken}
    lab.assert_equal(engine, [disk])
