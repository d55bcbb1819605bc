"""build/lab.json: what was measured of each scene. Seconds; None: the scene has no such time."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Result(msgspec.Struct, kw_only=True):
    """`ok` with `why` when it is false. From the loss of the master: `detect` until the appliance began to act, `rto`
    until a client had its first commit on the substitute. `boot`: from the domain's start until its database answered;
    `plain_boot`: the same of a plain `virsh start` of these disks; `redirect`: from then until the client's first
    commit there. `rpo`: from the first acknowledged commit that is missing until the loss. `home`:
    from a client's last commit on the substitute to its next one on the repaired master. `seconds`: of it all."""

    ok: bool = False
    why: str = ""
    seconds: float | None = None
    rpo_seconds: float | None = None
    rto_seconds: float | None = None
    detect_seconds: float | None = None
    boot_seconds: float | None = None
    plain_boot_seconds: float | None = None
    redirect_seconds: float | None = None
    home_seconds: float | None = None
    commits_acknowledged: int | None = None
    commits_lost: int | None = None


def write(path: Path, scenes: dict[str, Result]) -> None:
    """Replaces the file."""
    plain = {
        name: {key: round(value, 3) if isinstance(value, float) else value for key, value in _items(result)}
        for name, result in scenes.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"scenes": plain}), indent=2) + b"\n")


def _items(result: Result) -> list[tuple[str, object]]:
    return [(key, getattr(result, key)) for key in result.__struct_fields__]
