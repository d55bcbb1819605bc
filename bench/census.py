"""What is there, counted: of a process its descriptors, threads and children; of a host files, domains, loop devices,
mounts, pins, addresses, cards and routes. What there is more of after each round is a leak.

Counted by what a thing is and not only how many there are, so that one kind that grows is not hidden by another that
shrinks. Only what is ours is looked at: others may work on the same host.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from proof.lab import run
from rha.capture import pins
from tests.redirect.wires import Host

Census = Mapping[str, Counter[str]]  # what kind of thing: how often each of it is there

# Of a scenario's folder: what the window of points keeps, and drops again. Its files have new names all the time.
WINDOWED = ("journal", "undo")
LIBVIRT = ("/etc/libvirt/qemu", "/run/libvirt/qemu", "/var/lib/libvirt/qemu")
_NUMBER = re.compile(r"\d+")


def more(before: Census, now: Census) -> list[str]:
    """What there is more of, in words: `appliance descriptors: socket 9 -> 11`; empty: nothing."""
    return [
        f"{kind}: {what} {before[kind][what]} -> {count}"
        for kind, found in now.items()
        for what, count in sorted(found.items())
        if count > before[kind][what]
    ]


# A process ---------------------------------------------------------------------------------------------------------


def of_process(name: str, pid: int) -> Census:
    """It must run. What goes away while it is looked at is not counted."""
    return {
        f"{name} descriptors": descriptors(pid),
        f"{name} threads": Counter(_read(task / "comm") for task in Path(f"/proc/{pid}/task").iterdir()),
        f"{name} children": Counter(_read(Path(f"/proc/{child}/comm")) for child in descendants(pid)),
    }


def descriptors(pid: int) -> Counter[str]:
    """By what they lead to; numbers of inodes do not tell two apart, nor do names of a window's files."""
    found: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[_kind(link.readlink())] += 1
    return found


def _kind(target: Path) -> str:
    """`socket:[N]`, `/store/web1/undo/*`, or the file itself."""
    if not target.is_absolute():
        return _NUMBER.sub("N", str(target))
    return f"{target.parent}/*" if target.parent.name in WINDOWED else str(target)


def descendants(pid: int) -> Iterator[int]:
    """Processes that its threads have started, and theirs."""
    with suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, _read(task / "children").split()):
                yield child
                yield from descendants(child)


def _read(path: Path) -> str:
    """Empty when it has gone meanwhile."""
    try:
        return path.read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


# A host ------------------------------------------------------------------------------------------------------------


def of_scenario(name: str, folders: Iterable[Path]) -> Census:
    """What a scenario of this name, which nobody else has, and these folders have to do with on this host."""
    places = [str(folder) for folder in folders]
    named = (Path(folder).rglob(f"*{name}*") for folder in (*LIBVIRT, "/run/rha"))
    return {
        "files": Counter(path for folder in places for path in _files(Path(folder)))
        + Counter(str(path) for found in named for path in found),
        "domains": Counter(line for line in run("virsh", "list", "--all", "--name").split() if name in line),
        "loop devices": Counter(
            path for file in Path("/sys/block").glob("loop*/loop/backing_file") if _is_in(path := _read(file), places)
        ),
        "mounts": Counter(
            line.split()[4]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if any(place in line for place in places)
        ),
        "pins": Counter(str(path) for path in pins.folder(name).rglob("*")),
    }


def _files(folder: Path) -> Iterator[str]:
    """All below a folder but what a window keeps."""
    for path in folder.rglob("*"):
        if not any(part in WINDOWED for part in path.relative_to(folder).parts):
            yield str(path)


def _is_in(path: str, places: Iterable[str]) -> bool:
    return any(path.startswith(place) for place in places)


def of_network(name: str, host: Host) -> Census:
    """Everything of a host that is ours alone."""
    return {
        f"addresses of the {name}": Counter(" ".join(line.split()[1:4]) for line in _lines(host, "address")),
        f"cards of the {name}": Counter(line.split()[1] for line in _lines(host, "link")),
        f"routes of the {name}": Counter(line.strip() for line in _lines(host, "route")),
    }


def _lines(host: Host, what: str) -> list[str]:
    return host.ip("-o", what).splitlines()


def bytes_below(folder: Path) -> int:
    """Of the files, as they are allocated."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total
