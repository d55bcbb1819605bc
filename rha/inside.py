"""Paths inside a mounted tree that somebody else has filled: its links lead within it, as for who runs there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rha.errors import StateError

MAX_LINKS = 40  # as the kernel follows (path_resolution(7))


def inside(top: Path, path: str) -> Path:
    """Where `path` is in the tree `top`, as a process would find it whose root that is. Links on the way are followed,
    the last one is not; `..` at the top stays there. Of what does not exist the rest is taken as it stands.

    Without this an absolute link in the tree would lead to the files of this host. Raises StateError when links go
    round in circles.
    """
    left = [part for part in path.split("/") if part not in ("", ".")][::-1]
    found: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            found = found[:-1]
            continue
        found.append(part)
        if not left or not _is_link(top.joinpath(*found)):
            continue
        links += 1
        if links > MAX_LINKS:
            raise StateError(f"{path} cannot be followed", cause="its symbolic links go round in circles")
        goal = os.readlink(top.joinpath(*found))
        found = [] if goal.startswith("/") else found[:-1]
        left += [part for part in goal.split("/") if part not in ("", ".")][::-1]
    return top.joinpath(*found)


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False
