"""Which files differ between two mounted trees."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

PIECE_BYTES = 1 << 20


def changed_files(before: Path, after: Path, inner: str = "") -> Iterator[tuple[str, str]]:
    """(sign, path from the trees' top) in order: `+` only after, `-` only before, `M` another content, `m` another
    owner, mode, link count or extended attributes (ACLs are such). Files of the same inode, size and times count as the
    same and are not read.

    Raises OSError when a directory or file cannot be read.
    """
    one, other = _names(before / inner), _names(after / inner)
    for name in sorted(one | other):
        path = f"{inner}/{name}" if inner else name
        if name not in other:
            yield "-", path
        elif name not in one:
            yield "+", path
        else:
            yield from _both(before, after, path)


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def _both(before: Path, after: Path, path: str) -> Iterator[tuple[str, str]]:
    old, new = os.lstat(before / path), os.lstat(after / path)
    if stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode) or _differs(before / path, after / path, old, new):
        yield "M", path
    elif _about(old) != _about(new) or _attributes(before / path, old) != _attributes(after / path, new):
        yield "m", path
    if stat.S_ISDIR(old.st_mode) and stat.S_ISDIR(new.st_mode):
        yield from changed_files(before, after, path)


def _attributes(path: Path, found: os.stat_result) -> dict[str, bytes]:
    if stat.S_ISLNK(found.st_mode):
        return {}
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def shown(path: str) -> str:
    """For one line of a terminal: what is not printable, or no UTF-8, as `\\xNN`."""
    return "".join(
        letter if letter.isprintable() and letter != "\\" else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
        for letter in path
    )


def _about(found: os.stat_result) -> tuple[int, ...]:
    links = 0 if stat.S_ISDIR(found.st_mode) else found.st_nlink
    return found.st_mode, found.st_uid, found.st_gid, links, found.st_rdev


def _differs(one: Path, other: Path, old: os.stat_result, new: os.stat_result) -> bool:
    if stat.S_ISLNK(old.st_mode):
        return os.readlink(one) != os.readlink(other)
    if not stat.S_ISREG(old.st_mode):
        return False
    if old.st_size != new.st_size:
        return True
    if (old.st_ino, old.st_mtime_ns, old.st_ctime_ns) == (new.st_ino, new.st_mtime_ns, new.st_ctime_ns):
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while piece := left.read(PIECE_BYTES):
            if piece != right.read(PIECE_BYTES):
                return True
    return False
