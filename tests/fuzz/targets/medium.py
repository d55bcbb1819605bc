"""A removable medium that somebody else had: its manifest, also one that was sealed again with the right key, and its
parts. Nothing on it leads out of its folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from rha.sync import medium
from rha.sync.medium import Medium, Secret, derive, seal_of

SECRET = Secret("file", b"k" * 32)
MOST_PARTS = 8


def run(data: bytes, folder: Path) -> None:
    """The first byte: 1: the manifest is sealed again if it can be; then one line of manifest, one of written.jsonl,
    and a part."""
    if not data:
        return
    mode, rest = data[0], data[1:]
    manifest, _, rest = rest.partition(b"\n")
    written, _, part = rest.partition(b"\n")
    root = folder / "rha-web"
    root.mkdir()
    (root / "manifest.json").write_bytes(sealed(manifest) if mode & 1 else manifest)
    (root / "written.jsonl").write_bytes(written)
    (root / "d0/0000").mkdir(parents=True)
    (root / "d0/0000/00000000.part").write_bytes(part)
    found = Medium(folder, "web" if mode & 2 else None)
    known = found.manifest()
    if known:
        found.written(known)
    complete, keys = found.complete(SECRET)
    for one in complete.parts[:MOST_PARTS]:
        assert found.path_of(complete, one.disk, one.offset).resolve().is_relative_to(root.resolve())
        with contextlib.suppress(medium.StorageError):
            found.read(complete, keys, one)


def sealed(raw: bytes) -> bytes:
    """The same manifest with a seal, and a check of the key, that fit."""
    try:
        manifest = msgspec.json.decode(raw, type=medium.Manifest)
        keys = derive(SECRET, bytes.fromhex(manifest.salt))
    except (ValueError, RecursionError):
        return raw
    check = bytes(12) + keys.parts.encrypt(bytes(12), b"rha medium", None)
    manifest = msgspec.structs.replace(manifest, key="file", check=check.hex())
    return msgspec.json.encode(msgspec.structs.replace(manifest, seal=seal_of(manifest, keys)))
