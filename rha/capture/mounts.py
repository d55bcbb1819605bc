"""What is mounted here, as the kernel says (proc_pid_mountinfo(5))."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    """A mounted file system: `numbers` (major:minor) of what the kernel says it is on, `source` as it was mounted.
    `id` is this mount's own; `is_writable`: of the file system, whatever this mount of it allows."""

    numbers: str
    point: str
    kind: str
    source: str
    id: int = 0
    is_writable: bool = True


def mounted(file: Path = MOUNTS) -> list[Mount]:
    """Every mount of this process's namespace, the upper of two on one point last."""
    return parse(file.read_text(errors="surrogateescape"))


def parse(mountinfo: str) -> list[Mount]:
    """The file's text."""
    found = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        kind, source, options = fields[fields.index("-") + 1 :][:3]
        is_writable = "ro" not in options.split(",")
        found.append(Mount(fields[2], _plain(fields[4]), kind, _plain(source), int(fields[0]), is_writable))
    return found


def _plain(field: str) -> str:
    """Blanks, line ends and backslashes stand as octal escapes."""
    if "\\" not in field:
        return field
    raw = field.encode("utf-8", "surrogateescape")
    return raw.decode("unicode_escape").encode("latin-1").decode("utf-8", "surrogateescape")
