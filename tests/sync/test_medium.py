"""A medium gives back what was put on it, or says why not."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from rha.errors import ConfigError, RhaError, StorageError
from rha.sync.medium import PART_BYTES, Keys, Manifest, Medium, MediumDisk, Part, Secret, begin, read_secret, seal_of

FILE = Secret("file", bytes(range(32)))
PHRASE = Secret("passphrase", b"correct horse")
DISKS = [MediumDisk(name="root", bytes=3 * PART_BYTES), MediumDisk(name="data", bytes=1 << 20)]


def made(root: Path, secret: Secret = FILE) -> tuple[Medium, Manifest, Keys, dict[tuple[int, int], bytes]]:
    """A complete medium of two parts, small ones."""
    manifest, keys = begin("web1", "host", 1.0, secret, DISKS)
    medium, draw = Medium(root, "web1"), random.Random(4)
    medium.save(manifest)
    contents = {(0, PART_BYTES): draw.randbytes(5000), (1, 0): bytes(100_000) + draw.randbytes(50)}
    parts = [medium.write(manifest, keys, disk, offset, content) for (disk, offset), content in contents.items()]
    manifest = msgspec.structs.replace(manifest, parts=parts)
    manifest = msgspec.structs.replace(manifest, seal=seal_of(manifest, keys))
    medium.save(manifest)
    return medium, manifest, keys, contents


@pytest.mark.parametrize("secret", [FILE, PHRASE], ids=lambda secret: secret.kind)
def test_what_was_written_is_read(tmp_path: Path, secret: Secret) -> None:
    *_, contents = made(tmp_path, secret)
    medium = Medium(tmp_path)
    manifest, keys = medium.complete(secret)
    assert {(part.disk, part.offset): medium.read(manifest, keys, part) for part in manifest.parts} == contents


def test_nothing_of_the_content_is_on_the_medium(tmp_path: Path) -> None:
    *_, contents = made(tmp_path)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert all(content[-40:] not in stored for content in contents.values())


@pytest.mark.parametrize("other", [Secret("file", bytes(32)), PHRASE], ids=lambda secret: secret.kind)
def test_another_key_is_told_from_damage(tmp_path: Path, other: Secret) -> None:
    medium, *_ = made(tmp_path)
    with pytest.raises(ConfigError, match="the key does not open"):
        medium.complete(other)


@pytest.mark.parametrize("field", ["host", "scenario", "begun", "disks"])
def test_an_altered_manifest_is_refused(tmp_path: Path, field: str) -> None:
    medium, manifest, *_ = made(tmp_path)
    other = {"host": "elsewhere", "scenario": "web2", "begun": 2.0, "disks": list(reversed(DISKS))}[field]
    medium.save(msgspec.structs.replace(manifest, **{field: other}))
    with pytest.raises(StorageError, match="was altered"):
        medium.complete(FILE)


@pytest.mark.parametrize("name", ["../other", "/etc", "a b", ""])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    medium, manifest, *_ = made(tmp_path)
    medium.save(msgspec.structs.replace(manifest, scenario=name))
    with pytest.raises(StorageError, match="cannot be read"):
        medium.manifest()


def test_an_altered_part_is_refused(tmp_path: Path) -> None:
    medium, manifest, keys, _ = made(tmp_path)
    path = medium.path_of(manifest, 1, 0)
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="was altered"):
        medium.read(manifest, keys, manifest.parts[1])


def test_files_without_end_are_not_read_to_their_end(tmp_path: Path) -> None:
    medium, manifest, keys, _ = made(tmp_path)
    part = medium.path_of(manifest, 0, PART_BYTES)
    part.unlink()
    part.symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="was altered"):
        medium.read(manifest, keys, manifest.parts[0])
    (medium.folder / "manifest.json").unlink()
    (medium.folder / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="cannot be read"):
        medium.manifest()


def test_one_part_cannot_stand_for_another(tmp_path: Path) -> None:
    """Even when its digest is given for the other's: what it is for was sealed with it."""
    medium, manifest, keys, _ = made(tmp_path)
    one, other = manifest.parts
    medium.path_of(manifest, other.disk, other.offset).write_bytes(
        medium.path_of(manifest, one.disk, one.offset).read_bytes()
    )
    forged = Part(
        disk=other.disk, offset=other.offset, bytes=one.bytes, stored_bytes=one.stored_bytes, digest=one.digest
    )
    with pytest.raises(StorageError, match="was altered") as caught:
        medium.read(manifest, keys, forged)
    assert caught.value.cause == "it does not decrypt"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    medium, manifest, keys, _ = made(tmp_path)
    medium.path_of(manifest, 1, 0).unlink()
    with pytest.raises(StorageError, match=r"00000000\.part cannot be read"):
        medium.read(manifest, keys, manifest.parts[1])


def test_a_broken_export_goes_on_with_what_is_there_in_full(tmp_path: Path) -> None:
    medium, manifest, *_ = made(tmp_path)
    with (medium.folder / "written.jsonl").open("ab") as noted:
        noted.write(b'{"disk": 0, "off')  # cut off
    assert medium.written(manifest) == manifest.parts
    os.truncate(medium.path_of(manifest, 1, 0), 7)
    assert medium.written(manifest) == manifest.parts[:1]


def test_an_incomplete_medium_is_refused(tmp_path: Path) -> None:
    medium, manifest, *_ = made(tmp_path)
    medium.save(msgspec.structs.replace(manifest, seal=""))
    with pytest.raises(StorageError, match="is not complete"):
        medium.complete(FILE)


def test_a_medium_of_none_or_of_two_scenarios_is_not_guessed_about(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not the medium of one scenario"):
        Medium(tmp_path)
    made(tmp_path)
    assert Medium(tmp_path).folder == tmp_path / "rha-web1"
    (tmp_path / "rha-web2").mkdir()
    (tmp_path / "rha-web2/manifest.json").touch()
    with pytest.raises(StorageError, match="is not the medium of one scenario"):
        Medium(tmp_path)


@pytest.mark.parametrize("given", [(False, False), (True, True)])
def test_one_secret_is_needed(tmp_path: Path, given: tuple[bool, bool]) -> None:
    paths = [tmp_path / "x" if one else None for one in given]
    with pytest.raises(ConfigError, match="which key"):
        read_secret(*paths)


def test_secrets_are_read_and_short_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"a passphrase\r\nand more")
    assert read_secret(None, file) == Secret("passphrase", b"a passphrase")
    assert read_secret(file, None) == Secret("file", b"a passphrase\r\nand more")
    file.write_bytes(b"short\n")
    for paths in ((file, None), (None, file), (tmp_path / "none", None)):
        with pytest.raises(RhaError, match=r"too short|cannot be read"):
            read_secret(*paths)
