"""What the appliance may order of the engine: one line a verb. Arguments and values are plain JSON.

Only what the master's own scenario allows is done: the appliance says when, never what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rha.wire.orders import Handler

if TYPE_CHECKING:
    from rha.engine.engine import Engine
    from rha.engine.release import Release


def handlers(engine: Engine) -> dict[str, Handler]:
    """The registry of one engine. Each may be called twice with the same outcome (rha/wire/orders.py)."""

    def position() -> dict[str, Any]:
        now, lsn = engine.position()
        return {"time": now, "lsn": lsn}

    given = {"position": position}
    return {**given, **_release(engine, engine.release)} if engine.release else given


def _release(engine: Engine, release: Release) -> dict[str, Handler]:
    """A switchover's (release.py)."""

    def stand_still() -> dict[str, Any]:
        now, lsn, said = release.release(engine)
        return {"time": now, "lsn": lsn, "said": said}

    return {
        "may_release": lambda: release.check(engine),
        "release": stand_still,
        "hand_over": release.hand_over,
        "power_off": release.power_off,
        "resume": release.resume,
    }
