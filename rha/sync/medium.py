"""A disk's content on a removable medium: encrypted parts, and a manifest that says what they are.

    rha-SCENARIO/
        manifest.json     what was exported; sealed with the key once the export is complete
        written.jsonl     the parts so far, one JSON line each: what an export goes on from
        DISK/0000/00000000.part

A part is 32 MiB of a disk: a nonce of 12 bytes, then the content, compressed by Zstandard and encrypted by
AES-256-GCM, its 16 bytes of tag last. What a part is for (medium, disk, offset, length) is authenticated with it, so
one cannot stand for another. Parts of zeros are not written. The key comes from a key file by HKDF-SHA256 (RFC 5869) or
from a passphrase by scrypt (RFC 7914), with the medium's own salt. Files are small enough for every file system that
media carry.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from rha.decoding import from_json
from rha.errors import ConfigError, RhaError, StorageError
from rha.scenario import Name

VERSION = 1
PART_BYTES = 32 << 20
_FOLDER_PARTS = 1024
_MANIFEST_BYTES = 256 << 20  # a part is noted in 150 bytes: 50 TiB
_LEVEL = 3  # of Zstandard: the medium is slower than that
_NONCE_BYTES = 12
_LEAST_KEY_BYTES = 16
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}  # 32 MiB, a tenth of a second
_KNOWN = b"rha medium"


class MediumDisk(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    name: Name
    bytes: int
    source: str = ""  # what was known of its free space


class Part(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One file. `offset` and `bytes` on the disk; `stored_bytes` and `digest` (BLAKE3, hex) of the file."""

    disk: int
    offset: int
    bytes: int
    stored_bytes: int
    digest: str


class Manifest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`check`: known text, sealed, tells a wrong key. `seal`: keyed BLAKE3 over all the rest, hex; empty until the
    export is complete."""

    version: int = VERSION
    id: str
    scenario: Name
    host: str
    begun: float
    key: Literal["file", "passphrase"]
    salt: str
    check: str
    disks: list[MediumDisk]
    parts: list[Part] = []
    seal: str = ""


class Secret(NamedTuple):
    """What the key is made of."""

    kind: Literal["file", "passphrase"]
    value: bytes


class Keys(NamedTuple):
    """Derived: for the parts, for the manifest."""

    parts: AESGCM
    manifest: bytes


def read_secret(key_file: Path | None, passphrase_file: Path | None) -> Secret:
    """The content of one of the two files; of a passphrase the first line.

    Raises ConfigError when none or both are given, or the file cannot be read or is too short.
    """
    if (key_file is None) == (passphrase_file is None):
        hint = "head -c 32 /dev/urandom > medium.key; then --key-file medium.key"
        raise ConfigError("which key?", cause="one of --key-file and --passphrase-file is needed", hint=hint)
    path = key_file or passphrase_file
    assert path is not None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"key {path} cannot be read", cause=error.strerror or "", hint=f"ls -l {path}") from error
    value = content if key_file else content.split(b"\n", 1)[0].rstrip(b"\r")
    if len(value) < (_LEAST_KEY_BYTES if key_file else 8):
        raise ConfigError(f"key {path} is too short", cause=f"{len(value)} bytes", hint="head -c 32 /dev/urandom")
    return Secret("file" if key_file else "passphrase", value)


def derive(secret: Secret, salt: bytes) -> Keys:
    if secret.kind == "file":
        raw = HKDF(SHA256(), 64, salt, b"rha sync medium 1").derive(secret.value)
    else:
        raw = Scrypt(salt, 64, **_SCRYPT).derive(secret.value)
    return Keys(AESGCM(raw[:32]), raw[32:])


def seal_of(manifest: Manifest, keys: Keys) -> str:
    bare = msgspec.structs.replace(manifest, seal="")
    return str(blake3(msgspec.json.encode(bare), key=keys.manifest).hexdigest())


def begin(scenario: str, host: str, now: float, secret: Secret, disks: list[MediumDisk]) -> tuple[Manifest, Keys]:
    """The manifest of a new medium."""
    salt = os.urandom(16)
    keys, nonce = derive(secret, salt), os.urandom(_NONCE_BYTES)
    manifest = Manifest(
        id=os.urandom(16).hex(),
        scenario=scenario,
        host=host,
        begun=now,
        key=secret.kind,
        salt=salt.hex(),
        check=(nonce + keys.parts.encrypt(nonce, _KNOWN, None)).hex(),
        disks=disks,
    )
    return manifest, keys


def open_keys(manifest: Manifest, secret: Secret, where: Path) -> Keys:
    """Raises ConfigError when the secret is not the medium's."""
    try:
        keys, check = derive(secret, bytes.fromhex(manifest.salt)), bytes.fromhex(manifest.check)
        keys.parts.decrypt(check[:_NONCE_BYTES], check[_NONCE_BYTES:], None)
    except (InvalidTag, ValueError) as error:
        made = "a key file" if manifest.key == "file" else "a passphrase"
        cause = f"it was encrypted with {made}, and this is another one"
        raise ConfigError(f"the key does not open {where}", cause=cause, hint="the key of `rha sync export`") from error
    return keys


class Medium:
    """The folder of one scenario on a medium. `scenario`: None: the only one that is there."""

    def __init__(self, root: Path, scenario: str | None = None) -> None:
        """Raises StorageError when there is nothing of ours, or more than one."""
        if scenario is None:
            found = sorted(root.glob("rha-*/manifest.json"))
            if len(found) != 1:
                names = ", ".join(path.parent.name for path in found) or "no folder rha-SCENARIO with a manifest"
                raise StorageError(
                    f"{root} is not the medium of one scenario", cause=names, hint="--name SCENARIO; findmnt"
                )
            self.folder = found[0].parent
        else:
            self.folder = root / f"rha-{scenario}"

    def manifest(self) -> Manifest | None:
        """None when there is none yet. Raises StorageError when it cannot be read."""
        path = self.folder / "manifest.json"
        try:
            manifest = from_json(_read(path, _MANIFEST_BYTES), Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise StorageError(f"{path} cannot be read", cause=str(error), hint="export once more") from error
        if manifest.version != VERSION:
            cause = f"it has version {manifest.version}, this rha writes and reads {VERSION}"
            raise StorageError(f"{path} is of another version", cause=cause, hint="install the same version on both")
        return manifest

    def complete(self, secret: Secret) -> tuple[Manifest, Keys]:
        """The manifest of a complete, unaltered medium. Raises StorageError, ConfigError."""
        manifest = self.manifest()
        if manifest is None:
            raise StorageError(f"nothing was exported to {self.folder}", cause="no manifest.json", hint="findmnt")
        keys = open_keys(manifest, secret, self.folder)
        if not manifest.seal:
            cause = "its export was broken off"
            raise StorageError(
                f"{self.folder} is not complete", cause=cause, hint="rha sync export once more: it goes on"
            )
        if not hmac.compare_digest(manifest.seal, seal_of(manifest, keys)):
            cause = "its seal does not fit its content"
            raise StorageError(f"the manifest in {self.folder} was altered", cause=cause, hint="export once more")
        if any(not _is_possible(part, manifest) for part in manifest.parts):
            raise StorageError(f"the manifest in {self.folder} cannot be", cause="a part beyond its disk")
        return manifest, keys

    def save(self, manifest: Manifest) -> None:
        with _told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _replace(self.folder / "manifest.json", msgspec.json.encode(manifest))

    def path_of(self, manifest: Manifest, disk: int, offset: int) -> Path:
        number = offset // PART_BYTES
        return self.folder / manifest.disks[disk].name / f"{number // _FOLDER_PARTS:04d}" / f"{number:08d}.part"

    # Parts ----------------------------------------------------------------------------------------------------

    def write(self, manifest: Manifest, keys: Keys, disk: int, offset: int, content: bytes | bytearray) -> Part:
        """One part, durable, and noted. Raises StorageError."""
        nonce = os.urandom(_NONCE_BYTES)
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
        sealed = nonce + keys.parts.encrypt(nonce, packed, _about(manifest, disk, offset, len(content)))
        part = Part(
            disk=disk,
            offset=offset,
            bytes=len(content),
            stored_bytes=len(sealed),
            digest=blake3(sealed).hexdigest(),
        )
        path = self.path_of(manifest, disk, offset)
        with _told(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, sealed)
            with (self.folder / "written.jsonl").open("ab") as noted:
                noted.write(msgspec.json.encode(part) + b"\n")
                noted.flush()
                os.fsync(noted.fileno())
        return part

    def written(self, manifest: Manifest) -> list[Part]:
        """The parts of a broken export that are there in full; a line that was cut off is left out."""
        try:
            lines = (self.folder / "written.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found: dict[tuple[int, int], Part] = {}
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError, OSError, IndexError):
                part = from_json(line, Part)
                if self.path_of(manifest, part.disk, part.offset).stat().st_size == part.stored_bytes:
                    found[part.disk, part.offset] = part
        return list(found.values())

    def read(self, manifest: Manifest, keys: Keys, part: Part) -> bytes:
        """The content of a part. Raises StorageError when it is missing, damaged, or not what the manifest says."""
        path = self.path_of(manifest, part.disk, part.offset)
        hint = "the medium is damaged: export to another one"
        try:
            sealed = _read(path, part.stored_bytes)
        except OSError as error:
            raise StorageError(f"{path} cannot be read", cause=error.strerror or str(error), hint=hint) from error
        if blake3(sealed).hexdigest() != part.digest:
            raise StorageError(f"{path} was altered", cause="its digest is not the manifest's", hint=hint)
        about = _about(manifest, part.disk, part.offset, part.bytes)
        try:
            packed = keys.parts.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
            if zstandard.frame_content_size(packed) != part.bytes:
                raise StorageError(f"{path} was altered", cause=f"it does not hold {part.bytes} bytes", hint=hint)
            return bytes(zstandard.ZstdDecompressor().decompress(packed))
        except (InvalidTag, zstandard.ZstdError) as error:
            raise StorageError(f"{path} was altered", cause="it does not decrypt", hint=hint) from error


def _read(path: Path, most: int) -> bytes:
    """A file of a medium, which may be longer than there is memory: of one that is longer than `most` only that and a
    byte more. Raises OSError."""
    with path.open("rb") as file:
        return file.read(most + 1)


def _is_possible(part: Part, manifest: Manifest) -> bool:
    if not 0 <= part.disk < len(manifest.disks) or part.offset % PART_BYTES:
        return False
    if not 0 < part.stored_bytes <= 2 * PART_BYTES:
        return False
    return 0 < part.bytes <= min(PART_BYTES, manifest.disks[part.disk].bytes - part.offset)


def _about(manifest: Manifest, disk: int, offset: int, length: int) -> bytes:
    return f"{manifest.id} {disk} {offset} {length}".encode()


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except RhaError:
        raise
    except OSError as error:
        cause = f"{error.strerror or error}"
        raise StorageError(f"{folder} cannot be written", cause=cause, hint=f"df -h {folder.parent}") from error
