"""Images in a Ceph cluster that runs here: what arrives in them, kill -9, the past, and every reason why one is not
taken. What an image holds is read by librbd itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import points_child
import pytest
from one_replica import DISK_BYTES, NAME, Master, opened, wait_for
from stream import DISCARD, WRITE, record
from test_points_kill import expected, run_until

from rha.appliance import rbd_target
from rha.appliance.config import Config, Target
from rha.appliance.points import Wanted, find
from rha.appliance.pointview import PointView
from rha.appliance.replica import Replica
from rha.doctor import targets
from rha.doctor.check import Finding
from rha.errors import ConfigError, DeviceError, HostError, NetworkError, RhaError
from rha.image import formats, rbd
from rha.image.convert import convert
from rha.image.rbd_ask import Question, ask, why_no_driver
from rha.image.storage_daemon import StorageDaemon
from rha.vm.image_reader import open_image
from rha.wire.frames import FrameType
from tests.ceph_cluster import POOL, USER, Cluster

pytestmark = pytest.mark.root
CONTENT = bytes(range(256)) * (DISK_BYTES // 256)
AFTER = CONTENT[:4096] + b"\xee" * 4096 + bytes(65536) + CONTENT[8192 + 65536 :]
SEED, FRAMES, KILLS = 12, 400, (90, 200)


def target_in(ceph: Cluster, image: str, **words: str) -> Target:
    fixed = {"scenario": NAME, "disk": "d0", "rbd": f"{POOL}/{image}", "conf": str(ceph.conf), "user": USER}
    return Target(**{**fixed, **words})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rbd_target, "_POLL_SECONDS", 0.1)


@pytest.fixture
def image(ceph: Cluster) -> Iterator[str]:
    """The name of an image that is gone after the test, if it ever was there."""
    name = f"image{time.monotonic_ns()}"
    yield name
    if name in ceph.images():
        ceph.remove(name)


def written(folder: Path, place: Target) -> tuple[Replica, Master, int]:
    """A replica after a first sync and two records, its master, and the LSN between them."""
    replica = opened(folder, target=[place])
    master = Master(replica)
    assert [disk.need for disk in master.greet("a" * 32, 8).disks] == ["full"], "it begins as zeros, which are not sent"
    master.sync(CONTENT)
    wait_for(lambda: bool(replica._images.history.intervals))
    before = master.lsn
    master.data(FrameType.RECORDS, record(WRITE, 0, 8, 4096, b"\xee" * 4096))
    master.data(FrameType.RECORDS, record(DISCARD, 0, 16, 65536))
    master.settle()
    return replica, master, before


def test_what_is_written_is_in_the_cluster(ceph: Cluster, image: str, tmp_path: Path) -> None:
    replica, master, before = written(tmp_path, target_in(ceph, image))
    assert replica.read_image(0, 0, 8192) == AFTER[:8192]
    point = replica.points.open(str(before))
    convert(point.describe().socket, "d0", tmp_path / "exported.raw", "raw")
    assert (tmp_path / "exported.raw").read_bytes() == CONTENT
    replica.points.close(point.name)
    replica.rewind(str(before), "a test")
    assert replica.read_image(0, 0, DISK_BYTES) == CONTENT
    replica.close()
    assert ceph.read(image) == CONTENT
    assert ceph.watchers(image) == []
    again = opened(tmp_path, target=[target_in(ceph, image)])
    again.rewind(str(master.lsn), "a test")
    again.close()
    assert ceph.read(image) == AFTER


def test_a_sync_is_guarded_and_merged(ceph: Cluster, image: str, tmp_path: Path) -> None:
    """The half of a sync lies in overlays over the image, which are merged into it at its end."""
    replica, master, _ = written(tmp_path, target_in(ceph, image))
    other = CONTENT[::-1]
    master.greet("b" * 32, master.lsn + 4096)
    master.sync(other)
    assert (tmp_path / NAME / "images" / "d0.sync.qcow2").exists()
    assert replica.read_image(0, 0, DISK_BYTES) == other
    wait_for(lambda: (replica.tend(), replica._images.guard is None)[1])  # type: ignore[func-returns-value]
    replica.close()
    assert ceph.read(image) == other


def test_any_point_after_kills(ceph: Cluster, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rbd_target, "USERS_SECONDS", 0.0)  # the watch of our own dead daemon is not waited for
    place = target_in(ceph, image)
    (tmp_path / "target.json").write_bytes(msgspec.json.encode([place]))
    for kill_at in KILLS:
        assert not run_until(tmp_path, kill_at, SEED, FRAMES)
    stream = points_child.stream(SEED, FRAMES)
    replica = opened(tmp_path, target=[place])
    try:
        assert replica.wait_applied(timeout=120)
        images = replica._images
        first, last = images.history.intervals[0].head.start.lsn, replica.applied_lsn
        assert last > first
        for lsn in (first, (first + last) // 2, last):
            found = find(images.history.intervals, replica._journal, Wanted(lsn=lsn), now=0)
            view = PointView(images.history, replica._journal, found, images)
            assert view.read(0, 0, DISK_BYTES) == expected(stream, lsn, SEED), lsn
            view.close()
    finally:
        replica.close()
    assert ceph.read(image) == expected(stream, last, SEED)


def test_an_empty_image_is_taken_and_grows_with_the_disk(ceph: Cluster, image: str, tmp_path: Path) -> None:
    ceph.create(image, DISK_BYTES)
    replica, _, _ = written(tmp_path, target_in(ceph, image))
    replica._images.grow([2 * DISK_BYTES])
    replica.close()
    assert ceph.read(image) == AFTER + bytes(DISK_BYTES)


def test_what_reads_and_layers_images(ceph: Cluster, image: str, tmp_path: Path) -> None:
    """The programs that a failover uses: qemu-nbd, and a storage daemon on an overlay."""
    replica, _, _ = written(tmp_path, target_in(ceph, image))
    (spec,) = replica.give_up_images()
    with open_image(spec.path, spec.format) as disk:
        assert disk.size == DISK_BYTES
        assert disk.read(0, 8192) == AFTER[:8192]
    overlay = tmp_path / "substitute.qcow2"
    formats.overlay(overlay, spec.path, spec.format)
    with StorageDaemon([spec._replace(path=overlay, format="qcow2")], tmp_path / "guest") as daemon:
        writer, reader = daemon.writer("d0"), daemon.reader("d0")
        writer.write(0, b"guest" * 1024)
        writer.flush()
        assert reader.read(4096, 2048) == (b"guest" * 1024)[4096:] + AFTER[5120:6144]
        reader.close()
        writer.close()
    replica.close()
    assert ceph.read(image) == AFTER, "looking never changes it"


def why_closed(replica: Replica) -> str:
    """What `rha status` says of images that could not be opened."""
    wait_for(lambda: replica._images.failure() is not None, 60)
    assert not replica._images._files.is_open
    return replica._images.failure() or ""


def goes_on(replica: Replica) -> bool:
    """Beside the stream, now and then."""
    replica.tend()
    return replica._images.failure() is None


# What is refused --------------------------------------------------------------------------------------------------


def refusal(folder: Path, place: Target) -> RhaError:
    """What a master is told that greets for the first time; and that nothing was begun."""
    replica = opened(folder, target=[place])
    try:
        with pytest.raises(RhaError) as refused:
            Master(replica).greet("a" * 32, 8)
    finally:
        replica.close()
    assert not list((folder / NAME / "images").glob("*.rbd"))
    assert not (folder / NAME / "stream.json").exists()
    return refused.value


def test_another_size(ceph: Cluster, image: str, tmp_path: Path) -> None:
    ceph.create(image, 2 * DISK_BYTES)
    refused = refusal(tmp_path, target_in(ceph, image))
    assert isinstance(refused, DeviceError)
    assert refused.what == f"image {POOL}/{image} has another size"


def test_something_in_it(ceph: Cluster, image: str, tmp_path: Path) -> None:
    ceph.create(image, DISK_BYTES, b"precious")
    refused = refusal(tmp_path, target_in(ceph, image))
    assert refused.what == f"image {POOL}/{image} is not empty"
    assert ceph.read(image)[:8] == b"precious"


def test_without_its_lock(ceph: Cluster, image: str, tmp_path: Path) -> None:
    ceph.create(image, DISK_BYTES, features=1)
    assert refusal(tmp_path, target_in(ceph, image)).what == f"image {POOL}/{image} has no lock"


def test_no_such_pool(ceph: Cluster, tmp_path: Path) -> None:
    refused = refusal(tmp_path, target_in(ceph, "x", rbd="none/x"))
    assert (type(refused), refused.what) == (DeviceError, "the Ceph cluster has no pool none")
    assert POOL in refused.cause


def test_no_such_user(ceph: Cluster, image: str, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text("[client.stranger]\nkey = AQBFUQdrkBobLxAAXqQPcYOLuQwKHwUdwlHFFw==\n")
    refused = refusal(tmp_path, target_in(ceph, image, user="stranger", keyring=str(keyring)))
    assert (type(refused), refused.what) == (NetworkError, "the Ceph cluster does not let client.stranger in")
    assert image not in ceph.images()


def test_nobody_answers(ceph: Cluster, tmp_path: Path) -> None:
    """A monitor that is not there: told in seconds; librados's own limit is five minutes."""
    conf = tmp_path / "ceph.conf"
    conf.write_text(ceph.conf.read_text().replace("mon_host = [v2:127.0.0.1:", "mon_host = [v2:127.0.0.9:"))
    conf.write_text(conf.read_text().replace(",v1:127.0.0.1:", ",v1:127.0.0.9:"))
    begun = time.monotonic()
    refused = refusal(tmp_path, target_in(ceph, "x", conf=str(conf)))
    assert (type(refused), refused.what) == (NetworkError, f"the Ceph cluster of {POOL}/x does not answer")
    assert time.monotonic() - begun < 60


def test_no_configuration(ceph: Cluster, tmp_path: Path) -> None:
    refused = refusal(tmp_path, target_in(ceph, "x", conf="/etc/ceph/none.conf"))
    assert (type(refused), refused.what) == (ConfigError, "/etc/ceph/none.conf cannot be read")


def test_in_use(ceph: Cluster, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rbd_target, "USERS_SECONDS", 0.5)
    ceph.create(image, DISK_BYTES)
    with ceph.image(image):
        refused = refusal(tmp_path, target_in(ceph, image))
    assert (type(refused), refused.what) == (DeviceError, f"image {POOL}/{image} is in use")
    assert refused.cause.startswith("opened by 127.0.0.1:")


def test_somebody_has_it_after_a_restart(
    ceph: Cluster, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rbd_target, "USERS_SECONDS", 0.5)
    written(tmp_path, target_in(ceph, image))[0].close()
    with ceph.image(image):
        replica = opened(tmp_path, target=[target_in(ceph, image)])
        assert "is in use" in why_closed(replica)
    wait_for(lambda: goes_on(replica))
    replica.close()


def test_another_image_under_the_same_name(ceph: Cluster, image: str, tmp_path: Path) -> None:
    written(tmp_path, target_in(ceph, image))[0].close()
    ceph.remove(image)
    replica = opened(tmp_path, target=[target_in(ceph, image)])
    assert "is missing" in why_closed(replica)
    replica.close()
    ceph.create(image, DISK_BYTES)
    replica = opened(tmp_path, target=[target_in(ceph, image)])
    assert "is another image" in why_closed(replica)
    with pytest.raises(DeviceError, match="is another image"):
        replica.apply_spool(30)
    replica.close()
    assert ceph.read(image) == bytes(DISK_BYTES)


def test_a_scenario_that_has_its_image_in_a_file(ceph: Cluster, image: str, tmp_path: Path) -> None:
    replica = opened(tmp_path)
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.sync(CONTENT)
    replica.close()
    replica = opened(tmp_path, target=[target_in(ceph, image)])
    assert "does not hold the image" in why_closed(replica)
    replica.close()
    assert image not in ceph.images()


def test_a_cluster_that_comes_back(ceph: Cluster, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An appliance may be up before its cluster is: the scenario is there, says why it waits, and goes on by itself."""
    monkeypatch.setattr(rbd, "CONNECT_SECONDS", 3)
    written(tmp_path, target_in(ceph, image))[0].close()
    away = tmp_path / "ceph.conf"
    away.write_text(ceph.conf.read_text().replace("127.0.0.1:", "127.0.0.9:"))
    place = target_in(ceph, image, conf=str(away))
    replica = opened(tmp_path, target=[place])
    assert "does not answer" in why_closed(replica)
    away.write_text(ceph.conf.read_text())
    wait_for(lambda: goes_on(replica), 60)
    assert replica.read_image(0, 0, 8192) == AFTER[:8192]
    replica.close()


def test_a_cluster_that_stands_still(
    ceph: Cluster, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take in time is an error that is told, and is done again once it takes it."""
    monkeypatch.setattr(rbd, "REQUEST_SECONDS", 0)  # none: whether librados or we give up first is left to chance
    monkeypatch.setattr(rbd, "PATIENCE_SECONDS", 5.0)
    replica, master, _ = written(tmp_path, target_in(ceph, image))
    with ceph.stopped():
        master.data(FrameType.RECORDS, record(WRITE, 0, 0, 4096, b"\xdd" * 4096))
        replica.commit()
        wait_for(lambda: replica._images.failure() is not None, 120)
        assert "failed on the image of disk d0" in (replica._images.failure() or "")
    wait_for(lambda: goes_on(replica), 120)
    assert replica.wait_applied(timeout=60)
    replica.close()
    assert ceph.read(image) == b"\xdd" * 4096 + AFTER[4096:]


@pytest.mark.parametrize("setting", ["keyring", "keyfile", "key"])
def test_the_key_that_a_substitute_needs(ceph: Cluster, image: str, tmp_path: Path, setting: str) -> None:
    ceph.create(image, DISK_BYTES)
    keyring = ceph.folder / f"client.{USER}.keyring"
    key = keyring.read_text().partition("key = ")[2].split()[0]
    (tmp_path / "keyfile").write_text(key + "\n")
    value = {"keyring": str(keyring), "keyfile": str(tmp_path / "keyfile"), "key": key}[setting]
    other = "\n".join(line for line in ceph.conf.read_text().splitlines() if not line.startswith("keyring"))
    (tmp_path / "ceph.conf").write_text(f"{other}\n{setting} = {value}\n")
    conf = str(tmp_path / "ceph.conf")
    found = ask(Question(conf=conf, user=USER, pool=POOL, image=image, how_to_reach=True))
    assert found.key == key
    assert len(found.monitors) == 2, "one address for each protocol"


def test_what_the_doctor_says(ceph: Cluster, image: str, tmp_path: Path) -> None:
    place = target_in(ceph, image)
    config = Config(store=str(tmp_path), ca="/x", certificate="/x", key="/x", target=[place])
    (check,) = targets.of_appliance(config)
    assert check() == Finding(f"target {NAME}/d0", "ok", f"RBD {POOL}/{image} is made when the master comes")
    written(tmp_path, place)[0].close()
    assert check().finding == f"RBD {POOL}/{image} holds the image, 8 MiB"
    (tmp_path / NAME).rename(tmp_path / "aside")
    assert (check().grade, check().finding) == (
        "fault",
        f"image {POOL}/{image} is not empty: something was written to it",
    )


def test_without_qemus_driver(tmp_path: Path) -> None:
    """As on a host without qemu-block-extra: an empty folder lies over that of QEMU's modules."""
    assert why_no_driver() is None
    code = "from rha.image.rbd_ask import Question, ask, why_no_driver; print(why_no_driver())"
    shell = f"mount --bind {tmp_path} /usr/lib/x86_64-linux-gnu/qemu && exec {sys.executable} -c '{code}'"
    said = subprocess.check_output(["unshare", "--mount", "sh", "-c", shell], text=True)
    assert "error: QEMU cannot open images in Ceph" in said
    assert "qemu-block-extra" in said
    assert issubclass(HostError, RhaError)


def test_the_copy_of_the_configuration(tmp_path: Path) -> None:
    source, copy = tmp_path / "ceph.conf", tmp_path / "copy.conf"
    source.write_text("[client.rha]\nclient_mount_timeout = 300\n")
    rbd.copy_conf(source, copy, "rha", "/etc/ceph/rha.keyring")
    assert copy.stat().st_mode & 0o777 == 0o600, "a ceph.conf may hold keys"
    words = ["ceph-conf", "--conf", str(copy), "--name", "client.rha", "--lookup"]
    keys = ("client_mount_timeout", "keyring")
    found = [subprocess.check_output([*words, key], text=True).strip() for key in keys]
    assert found == [str(rbd.CONNECT_SECONDS), "/etc/ceph/rha.keyring"]
