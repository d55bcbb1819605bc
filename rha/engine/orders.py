"""What the appliance may order of the engine: one line a verb. Arguments and values are plain JSON.

Only what the master's own scenario allows is done: the appliance says when, never what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rha.wire.orders import Handler

if TYPE_CHECKING:
    from rha.engine.engine import Engine


def handlers(engine: Engine) -> dict[str, Handler]:
    """The registry of one engine. Each may be called twice with the same outcome (rha/wire/orders.py)."""

    def position() -> dict[str, Any]:
        now, lsn = engine.position()
        return {"time": now, "lsn": lsn}

    return {"position": position, "quiesce": engine.quiescer.run}
