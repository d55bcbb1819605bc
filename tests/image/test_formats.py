import subprocess

import pytest

from rha.errors import StorageError
from rha.image import formats
from rha.image.storage_daemon import ImageSpec, StorageDaemon

MIB = 1 << 20


@pytest.mark.parametrize("format", formats.FORMATS)
def test_created_image_has_size_and_format_and_reads_as_zeros(tmp_path, format):
    path = tmp_path / "a disk, with a comma"
    formats.create(path, 64 * MIB, format)
    told = formats.info(path)
    assert (told.format, told.virtual_size) == (format, 64 * MIB)
    assert told.actual_size < 16 * MIB
    assert formats.check(path).is_sound
    with StorageDaemon([ImageSpec("root", path, format)], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        assert daemon.reader("root").read(0, MIB) == bytes(MIB)
        writer.write(63 * MIB, b"x" * MIB)
        writer.flush()
        assert daemon.reader("root").read(63 * MIB, MIB) == b"x" * MIB


def test_what_an_overlay_holds_itself_is_counted_while_it_is_in_use(tmp_path):
    base, path = tmp_path / "base.qcow2", tmp_path / "an overlay, with a comma"
    formats.create(base, 64 * MIB)
    with StorageDaemon([ImageSpec("root", base, "qcow2")], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        writer.write(0, b"b" * MIB)
        writer.flush()
    formats.overlay(path, base, "qcow2")
    assert formats.held_bytes(path) == 0
    with StorageDaemon([ImageSpec("root", path, "qcow2")], tmp_path / "run") as daemon, daemon.writer("root") as writer:
        for cluster in range(0, 512, 2):
            writer.write(cluster * 65536 + 512, b"x" * 512)
        writer.zero(MIB * 60, 65536)
        writer.flush()
        assert formats.held_bytes(path) == 257 * 65536
    assert formats.held_bytes(path) == 257 * 65536
    with pytest.raises(StorageError, match="qemu-img map failed"):
        formats.held_bytes(tmp_path / "none")


def test_existing_target_is_refused_and_kept(tmp_path):
    path = tmp_path / "disk.qcow2"
    path.write_text("precious")
    with pytest.raises(StorageError, match="cannot be made") as caught:
        formats.create(path, MIB)
    assert caught.value.cause == "File exists"
    assert path.read_text() == "precious"


def test_refused_creation_leaves_nothing(tmp_path):
    with pytest.raises(StorageError, match="qemu-img create failed") as caught:
        formats.create(tmp_path / "disk.qcow2", 1 << 62)
    assert "too large" in caught.value.cause.lower() or "too big" in caught.value.cause.lower()
    with pytest.raises(StorageError):
        formats.overlay(tmp_path / "over.qcow2", tmp_path / "missing", "qcow2")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot be made") as caught:
        formats.create(tmp_path / "no" / "disk", MIB)
    assert caught.value.cause == "No such file or directory"


def test_overlay_shows_its_backing_and_leaves_it_alone(tmp_path):
    base, over = tmp_path / "base.raw", tmp_path / "over.qcow2"
    formats.create(base, MIB, "raw")
    base.write_bytes(b"b" * MIB)
    formats.overlay(over, base, "raw")
    assert formats.info(over).full_backing_filename == str(base)
    with StorageDaemon([ImageSpec("over", over, "qcow2")], tmp_path / "run") as daemon:
        with daemon.writer("over") as writer:
            writer.write(0, b"o" * 512)
            writer.flush()
        assert daemon.reader("over").read(0, 1024) == b"o" * 512 + b"b" * 512
    assert base.read_bytes() == b"b" * MIB


def test_check_finds_damage(tmp_path):
    path = tmp_path / "disk.qcow2"
    formats.create(path, 64 * MIB)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 1M", str(path)], check=True, capture_output=True)
    with path.open("r+b") as file:  # the refcount block of a fresh image lies in its third cluster
        file.seek(2 * 65536)
        file.write(bytes(65536))
    assert not formats.check(path).is_sound
