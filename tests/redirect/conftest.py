"""Fixtures of this folder: real servers that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.redirect.named import Named
from tests.redirect.wires import Segment


@pytest.fixture
def new_named(tmp_path: Path) -> Iterator[Callable[..., Named]]:
    """`new_named(rights=…, key=…)` starts one more BIND."""
    with ExitStack() as stack:
        made: list[Named] = []

        def make(**words: object) -> Named:
            server = Named(tmp_path / f"named{len(made)}", **words)
            made.append(server)
            stack.callback(server.stop)
            server.start()
            return server

        yield make


@pytest.fixture
def named(new_named: Callable[..., Named]) -> Named:
    return new_named()


@pytest.fixture
def segment() -> Iterator[Segment]:
    """An Ethernet segment in namespaces."""
    made = Segment()
    yield made
    made.close()
