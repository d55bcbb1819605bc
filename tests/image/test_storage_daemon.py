import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rha.errors import StorageError
from rha.image import formats
from rha.image.storage_daemon import ImageReader, ImageSpec, ImageWriter, StorageDaemon

MIB = 1 << 20


@pytest.fixture
def image(tmp_path):
    spec = ImageSpec("root", tmp_path / "root.qcow2", "qcow2")
    formats.create(spec.path, 256 * MIB)
    return spec


@pytest.fixture
def daemon(tmp_path, image):
    with StorageDaemon([image], tmp_path / "run") as daemon:
        yield daemon


def test_many_writes_and_zeros_in_flight(daemon):
    draw, model = random.Random(3), bytearray(8 * MIB)
    with daemon.writer("root") as writer:
        places = draw.sample(range(0, 8 * MIB, 4096), 1200)
        for number, offset in enumerate(places):
            data = draw.randbytes(4096)
            writer.write(offset, data)
            model[offset : offset + 4096] = data
            if number == 600:
                writer.flush()
        writer.drain()
        for offset in places[:300]:
            writer.zero(offset, 4096)
            model[offset : offset + 4096] = bytes(4096)
        writer.flush()
    assert daemon.reader("root").read(0, 8 * MIB) == model


def test_write_larger_than_one_request(daemon):
    data = random.Random(4).randbytes(37 * MIB + 512)
    with daemon.writer("root") as writer:
        writer.write(512, memoryview(data))
        writer.flush()
        assert writer.bytes == 256 * MIB
    assert daemon.reader("root").read(512, len(data)) == data


def test_nobody_keeps_what_was_written_or_read(daemon):
    """A bytearray that somebody still looks at cannot change its length. libnbd's own binding keeps every buffer."""
    content, found = bytearray(os.urandom(3 << 20)), bytearray(3 << 20)
    with daemon.writer("root") as writer, daemon.reader("root") as reader:
        writer.write(0, content)
        writer.flush()
        reader.read_into(0, found)
        assert found == content
        content.clear()
        found.clear()


def test_zeroed_range_takes_no_space(daemon, image):
    with daemon.writer("root") as writer:
        writer.write(0, b"x" * (64 * MIB))
        writer.flush()
        full = os.stat(image.path).st_blocks
        writer.zero(0, 64 * MIB)
        writer.flush()
    assert daemon.reader("root").read(MIB, MIB) == bytes(MIB)
    assert os.stat(image.path).st_blocks < full // 8


def test_reader_cannot_write_and_sees_what_the_writer_wrote(daemon):
    with daemon.writer("root") as writer, daemon.reader("root") as reader:
        writer.write(0, b"a" * 512)
        writer.drain()
        assert reader.read(0, 512) == b"a" * 512
    with ImageWriter(daemon.socket, "ro:root") as sneak, pytest.raises(StorageError, match="EPERM"):
        sneak.write(0, b"b" * 512)


def test_error_names_disk_offset_and_errno_and_stays(daemon):
    with daemon.writer("root") as writer:
        with pytest.raises(StorageError, match="write failed on the image of disk root at byte 268435456") as caught:
            writer.write(256 * MIB, b"x" * 512)
        assert "EINVAL" in caught.value.cause
        for act in (writer.drain, writer.flush, lambda: writer.write(0, b"x" * 512)):
            with pytest.raises(StorageError, match="268435456"):
                act()


@pytest.mark.parametrize("act", ["write", "flush"])
def test_a_daemon_that_stands_still_is_not_waited_for(tmp_path, image, act):
    with StorageDaemon([image], tmp_path / "run", patience=2) as daemon:
        with daemon.writer("root") as writer:
            writer.flush()
            writer._answered -= 60  # a minute in which nothing is asked: nothing is missed
            writer.write(0, b"x" * 4096)
            writer.flush()
            os.kill(daemon.pid, signal.SIGSTOP)
            try:
                if act == "write":
                    writer.zero(0, 4096)
                with pytest.raises(StorageError, match="failed on the image of disk root") as failed:
                    writer.flush()
            finally:
                os.kill(daemon.pid, signal.SIGCONT)
        assert failed.value.cause == "ETIMEDOUT: no answer for 2 s"


def test_unknown_export_is_refused(daemon):
    with pytest.raises(StorageError, match="cannot be reached"):
        ImageReader(daemon.socket, "other")


def test_image_in_use_is_refused(daemon, image, tmp_path):
    with pytest.raises(StorageError, match="in use") as caught:
        StorageDaemon([image], tmp_path / "second").start()
    assert "lock" in caught.value.cause
    with pytest.raises(StorageError, match="qemu-img check failed"):
        formats.check(image.path)


def test_missing_image_is_refused_and_leaves_no_process(tmp_path):
    daemon = StorageDaemon([ImageSpec("root", tmp_path / "none.qcow2", "qcow2")], tmp_path / "run")
    with pytest.raises(StorageError, match="did not start") as caught:
        daemon.start()
    assert "No such file" in caught.value.cause
    assert not daemon.is_running


def test_long_socket_path_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be a socket"):
        StorageDaemon([], tmp_path / ("x" * 120)).start()


def test_qmp_answers_and_refuses(daemon):
    assert {export["id"] for export in daemon.execute("query-block-exports")} == {"image0-rw", "image0-ro"}
    with pytest.raises(StorageError, match="refused no-such-command"):
        daemon.execute("no-such-command")


def test_two_images_by_name(tmp_path):
    specs = [ImageSpec(name, tmp_path / name, "raw") for name in ("root", "data")]
    for spec in specs:
        formats.create(spec.path, MIB, "raw")
    with StorageDaemon(specs, tmp_path / "run") as daemon:
        for spec in specs:
            with daemon.writer(spec.name) as writer:
                writer.write(0, spec.name.encode() * 128)
                writer.flush()
    assert [spec.path.read_bytes()[:4] for spec in specs] == [b"root", b"data"]


PARENT = """
import sys, time
from pathlib import Path
from rha.image.storage_daemon import ImageSpec, StorageDaemon
daemon = StorageDaemon([ImageSpec("root", Path(sys.argv[1]), "qcow2")], Path(sys.argv[2]))
daemon.start()
print(daemon.pid, flush=True)
time.sleep(100)
"""


def test_it_dies_with_its_parent_and_the_next_one_starts_at_once(tmp_path, image):
    words = [sys.executable, "-c", PARENT, str(image.path), str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        handle = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        with StorageDaemon([image], tmp_path / "run") as daemon:
            assert select.select([handle], [], [], 10)[0], "the first daemon still runs"
            assert daemon.is_running
    os.close(handle)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_full_host_disk_is_named(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True)
    try:
        formats.create(place / "disk.qcow2", 256 * MIB)
        spec = ImageSpec("root", Path(place / "disk.qcow2"), "qcow2")
        with StorageDaemon([spec], tmp_path / "run") as daemon, daemon.writer("root") as writer:
            writer.write(0, b"x" * (32 * MIB))
            with pytest.raises(StorageError, match="disk root at byte") as caught:
                writer.flush()
        assert "ENOSPC" in caught.value.cause
        assert "df -h" in caught.value.hint
    finally:
        subprocess.run(["umount", str(place)], check=True)
