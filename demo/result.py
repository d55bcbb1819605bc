"""build/demo.json: what was measured. A value that was not reached is null."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Result(msgspec.Struct, kw_only=True):
    """Times are by the demo's own clock. `dropped`: losses of order on the master; `commits_lost`: acknowledged and
    missing, inside the RPO window or not."""

    records: int | None = None
    payload_bytes: int | None = None
    dropped: int | None = None
    sync_seconds: float | None = None
    verify_equal: bool | None = None
    commits_acknowledged: int | None = None
    commits_lost: int | None = None
    gaps: int | None = None
    rpo_seconds: float | None = None
    detect_seconds: float | None = None
    boot_seconds: float | None = None
    rto_seconds: float | None = None
    accelerator: str | None = None
    image: str | None = None
    image_format: str | None = None

    def write(self, path: Path) -> None:
        plain = {key: round(value, 3) if isinstance(value, float) else value for key, value in self._items()}
        path.write_bytes(msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n")

    def _items(self) -> list[tuple[str, object]]:
        return [(key, getattr(self, key)) for key in self.__struct_fields__]
