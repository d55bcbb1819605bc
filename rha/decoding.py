"""JSON that somebody else wrote, as a struct. Everything that msgspec may raise over it comes as one exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class NotReadable(msgspec.MsgspecError):
    """The bytes are not JSON, or not JSON of that type."""


def from_json(raw: bytes | memoryview, kind: type[T], *, dec_hook: Callable[[type, Any], Any] | None = None) -> T:
    """The bytes as a `kind`. Raises NotReadable.

    msgspec raises other things as well: RecursionError where lists are nested a thousand deep, UnicodeDecodeError for a
    text of no type that is not UTF-8, OverflowError for a number that a hook cannot take.
    """
    try:
        return msgspec.json.decode(raw, type=kind, dec_hook=dec_hook)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise NotReadable(str(error)) from error
