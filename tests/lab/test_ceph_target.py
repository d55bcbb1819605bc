"""An image in Ceph on the real path: probe, engine, TLS, an appliance that is killed; the past, exported."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from proof.lab import MIB, RHA, Disk, Lab, environment, run, wait_for
from tests.ceph_cluster import POOL, USER, Cluster

pytestmark = pytest.mark.root
NAME = "in-ceph"
TARGET = '[[target]]\nscenario = "{0}"\ndisk = "d0"\nrbd = "{1}/d0"\nconf = "{2}"\nuser = "{3}"\n'


def test_the_image_becomes_the_disk(ceph: Cluster) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-lab-")))
        disk = Disk(stack, folder / "disk.raw", 64 * MIB)
        lab = Lab(folder, Path("/dev/shm"), stack, settings=TARGET.format(NAME, POOL, ceph.conf, USER))
        mnt = lab.mount(disk.path, "ext4")
        engine = lab.engine([disk.path], name=NAME)
        lab.appliance.start()
        engine.start()
        engine.wait_ordered()
        write(mnt / "old", 4)
        wait_for(lambda: lab.appliance.report(NAME).get("window"), 180, lambda: lab.appliance.report(NAME))
        run("umount", mnt)
        disk.sync()
        old = disk.file.read_bytes()
        lab.appliance.wait_applied(NAME)
        rha(lab, "bookmark", NAME, "old")
        run("mount", disk.path, mnt)
        write(mnt / "new", 4)
        lab.appliance.kill()
        write(mnt / "newer", 4)
        lab.appliance.start()
        run("umount", mnt)
        disk.sync()
        engine.wait_ordered(120)
        assert engine.verify()["equal"]
        lab.appliance.wait_applied(NAME, 120)
        rha(lab, "export", NAME, str(folder / "old.raw"), "--format", "raw", "--at", "old")
        assert (folder / "old.raw").read_bytes() == old
        engine.stop()
        lab.appliance.stop()
        assert ceph.read("d0") == disk.file.read_bytes()


def write(file: Path, mib: int) -> None:
    run("dd", "if=/dev/urandom", f"of={file}", "bs=64k", f"count={16 * mib}", "conv=fsync", "status=none")


def rha(lab: Lab, *words: str) -> str:
    """A command at the appliance."""
    variables = environment(lab.folder / "run")
    done = subprocess.run([*RHA, *words], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr, lab.appliance.log()[-2000:])
    return done.stdout
