"""Engine, appliance and libvirt: the link is cut, a person fails over while the master lives, both write, the link
heals. What each wrote is judged by the kernel's own count of the master's disk and by what the guest is known to write.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proof.lab import MIB, RHA, Lab, environment, run, wait_for
from proof.proxy import Proxy
from rha.switch import progress as ledger
from rha.vm.base import DomainState, domain_name
from rha.vm.libvirt import LibvirtHost
from tests.vm.real import libvirt_host, store  # noqa: F401
from tests.vm.sectors import WRITTEN_SECTOR, writing_disk

pytestmark = pytest.mark.root
SECTOR, CLUSTER, BLOCK, BLOCKS = 512, 64 << 10, 4096, 5


class Site:
    """`proxy`: the line between master and appliance. The guest writes one sector when it boots."""

    def __init__(self, lab: Lab, libvirt: LibvirtHost, memory: Path, *, size: int = MIB, ring: str = "64MiB") -> None:
        self.lab, self.libvirt = lab, libvirt
        self.proxy = lab.stack.enter_context(Proxy(lab.port))
        self.disk = lab.disk(size)
        with open(self.disk.path, "wb") as device:
            device.write(writing_disk(memory / "boot.raw", b"it serves\r\n").read_bytes())
        self.disk.sync()
        more = '[vm]\nmemory = "64MiB"\nbus = "virtio"\naccelerator = "tcg"\n'
        self.engine = lab.engine(
            [self.disk.path], port=self.proxy.port, ring=ring, link='lost_after = "1s"\n', more=more
        )
        self.name, self.domain = self.engine.name, domain_name(self.engine.name)
        self.folder = lab.appliance.store / self.name
        lab.stack.callback(self._end)

    def _end(self) -> None:
        self.lab.appliance.kill()
        self.libvirt.destroy(self.domain)
        self.libvirt.undefine(self.domain)

    def start(self) -> None:
        self.lab.appliance.start()
        self.engine.start()
        self.engine.wait_ordered()
        self.lab.appliance.wait_applied(self.name)

    def rha(self, *words: str) -> subprocess.CompletedProcess[str]:
        variables = environment(self.lab.folder / "run")
        return subprocess.run([*RHA, *words], env=variables, capture_output=True, text=True, timeout=300, check=False)

    def told(self, *words: str) -> str:
        done = self.rha(*words)
        assert done.returncode == 0, (done.stderr, self.lab.appliance.log()[-3000:])
        return done.stdout

    def cut(self) -> None:
        """Nobody is told."""
        self.proxy.weather.held |= {"up", "down"}

    def heal(self) -> None:
        self.proxy.weather.held.clear()

    def fail_over(self) -> None:
        self.told("failover", self.name, "--force", "--yes", "--reason", "the line is cut")
        wait_for(lambda: "it serves" in self.libvirt.console(self.domain), 60)

    def written(self) -> tuple[int, int]:
        """Writes and bytes that the kernel has counted on the master's disk (Documentation/admin-guide/iostats)."""
        fields = Path("/sys/block", Path(self.disk.path).name, "stat").read_text().split()
        return int(fields[4]), int(fields[6]) * SECTOR

    def write_alone(self, block: int = BLOCK, count: int = BLOCKS) -> None:
        """As the master's applications."""
        words = ["if=/dev/urandom", f"of={self.disk.path}", f"bs={block}", f"count={count}", "seek=64"]
        run("dd", *words, "oflag=direct", "conv=notrunc", "status=none")

    def split(self) -> dict[str, Any]:
        return dict(json.loads(self.told("split", self.name, "--json")))

    def past(self) -> ledger.Progress | None:
        return ledger.load(self.folder)

    def words(self) -> tuple[object, ...]:
        return self.past(), self.lab.appliance.log()[-3000:], self.engine.log()[-3000:]


@pytest.fixture
def ready(lab: Lab, store: Path) -> Iterator[Lab]:  # noqa: F811
    """Its images lie where the VM user can reach them."""
    config = lab.folder / "appliance.toml"
    config.write_text(config.read_text().replace(str(lab.folder / "store"), str(store)))
    lab.appliance.store = store
    yield lab
    lab.stack.close()


@pytest.fixture
def site(ready: Lab, libvirt_host: LibvirtHost, tmp_path: Path) -> Site:  # noqa: F811
    return Site(ready, libvirt_host, tmp_path)


def test_both_sides_are_told_and_nothing_is_discarded(site: Site, tmp_path: Path) -> None:
    site.start()
    common = site.lab.appliance.report(site.name)["consistent"]["lsn"]
    before = site.disk.file.read_bytes()
    site.cut()
    begun = time.time()
    site.fail_over()
    served = time.time()
    counted = site.written()
    site.write_alone()
    writes, length = (after - earlier for after, earlier in zip(site.written(), counted, strict=True))
    ended = time.time()
    assert (writes, length) == (BLOCKS, BLOCKS * BLOCK)

    # Found when the link heals.
    assert site.split()["verdict"] == "unheard"
    site.heal()
    wait_for(lambda: site.split()["verdict"] == "split", 60, site.words)
    answer = site.split()
    evidence, alone = answer["evidence"], answer["evidence"]["master"]["alone"]
    assert (evidence["common"]["lsn"], alone["acknowledged_lsn"]) == (common, common)
    assert (alone["records"], alone["payload_bytes"]) == (writes, length)
    assert alone["lsn"] > common + length
    assert served <= alone["first"] <= alone["last"] <= ended
    assert [(disk["name"], disk["state"]) for disk in alone["disks"]] == [("d0", "ordered")]
    (disk,) = evidence["substitute"]["disks"]
    assert (disk["guest_bytes"], disk["held_bytes"]) == (SECTOR, CLUSTER)
    assert begun <= evidence["substitute"]["started"] <= served
    sentence = answer["sentence"]
    assert f"wrote {length >> 10} KiB in {writes} records, its substitute {SECTOR} B (64 KiB of clusters)" in sentence
    wait_for(lambda: site.engine.report()["alarms"] == [sentence], 90, site.engine.report)
    wait_for(lambda: "SPLIT BRAIN" in site.told("status"), 60, site.words)
    shown = site.told("split", site.name)
    assert f"its guest wrote {SECTOR} bytes; {CLUSTER} bytes in {disk['overlay']}" in shown
    refused = site.rha("switchback", site.name, "--yes")
    assert refused.returncode == 9
    assert "wrote alone, and a switchback overwrites its disks" in refused.stderr
    assert f"rha switchback {site.name} --overwrite-master" in refused.stderr

    # The master's side wins: what the substitute wrote is kept, whenever the appliance is killed meanwhile.
    discard_and_kill(site)
    kept = answer["ways"][1]["acts"][2]["command"].split()[-1]
    wait_for(lambda: site.past() is None, 60, site.words)
    assert site.libvirt.state(site.domain) == DomainState.ABSENT
    assert kept in site.told("kept", site.name)
    site.engine.wait_ordered(180)
    assert site.engine.report()["alarms"] == []
    site.told("export", site.name, str(tmp_path / "kept.raw"), "--format", "raw", "--at", kept)
    at = WRITTEN_SECTOR * SECTOR
    assert (tmp_path / "kept.raw").read_bytes() == before[:at] + b"W" * SECTOR + before[at + SECTOR :]
    assert "is removed" in site.told("kept", site.name, "--drop", kept, "--yes")
    assert f"{site.name}: nothing is kept" in site.told("kept", site.name)
    site.lab.assert_equal(site.engine, [site.disk])


def discard_and_kill(site: Site) -> None:
    """`kill -9` as soon as keeping has begun; then an appliance that is started anew."""
    words = [*RHA, "discard", site.name, "--yes"]
    with subprocess.Popen(words, env=environment(site.lab.folder / "run"), stderr=subprocess.DEVNULL) as asked:
        begun = [site.folder / "substitute" / "kept.json", site.folder / "kept"]
        until = time.monotonic() + 120
        while not any(path.exists() for path in begun):  # its end comes within milliseconds: nothing slower will do
            assert time.monotonic() < until, site.words()
        site.lab.appliance.kill()
        asked.wait()
    site.lab.appliance.start()


def test_what_the_ring_cannot_hold_is_told_by_its_ranges_and_what_nobody_saw_as_unknown(
    ready: Lab,
    libvirt_host: LibvirtHost,  # noqa: F811
    tmp_path: Path,
) -> None:
    site = Site(ready, libvirt_host, tmp_path, size=32 * MIB, ring="4MiB")
    site.start()
    site.cut()
    site.fail_over()
    site.write_alone(CLUSTER, 128)
    site.heal()
    wait_for(lambda: site.split()["verdict"] == "split", 60, site.words)
    answer = site.split()
    alone = answer["evidence"]["master"]["alone"]
    (disk,) = alone["disks"]
    assert (disk["state"], alone["payload_bytes"] < 4 * MIB) == ("marked", True)
    assert alone["payload_bytes"] + disk["dirty_bytes"] >= 8 * MIB, "nothing that was written is left out"
    assert disk["dirty_bytes"] <= 8 * MIB
    assert "the ring was full" in disk["why"]
    assert f"in ranges of {disk['name']}, its substitute" in answer["sentence"]

    # A probe that was taken away has not seen everything.
    site.engine.unload()
    site.engine.start()
    wait_for(lambda: site.split()["verdict"] == "possible", 90, site.words)
    answer = site.split()
    assert "SPLIT BRAIN IS POSSIBLE" in answer["sentence"]
    assert "d0: the probe was taken out of the kernel" in answer["unknown"][0]
    assert "compare needed" in site.told("split", site.name)
    assert "what it wrote is removed" in site.told("discard", site.name, "--no-keep", "--yes")
    assert f"{site.name}: nothing is kept" in site.told("kept", site.name)
    assert "error: lab" in site.rha("split", site.name).stderr
