"""The first sync, while somebody writes: then write order, and an image equal to the disk."""

import pytest

from proof.lab import MIB, Lab, run, wait_for
from proof.writers import FileWriter

pytestmark = pytest.mark.root

SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 160 * MIB}


@pytest.mark.parametrize("kind", SIZES)
def test_first_sync_under_a_writer(lab: Lab, kind: str) -> None:
    disk = lab.disk(SIZES[kind])
    folder = lab.mount(disk.path, kind)
    (folder / "before").write_bytes(bytes(range(256)) * (4 * MIB // 256))
    lab.appliance.start()
    engine = lab.engine([disk.path])
    with FileWriter(folder) as writer:
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        ordered_at = writer.count
        wait_for(lambda: writer.count > ordered_at + 200, 30)
        assert engine.state() == "write-order", engine.report()
    assert engine.losses() == {}
    run("umount", folder)
    lab.assert_equal(engine, [disk])
