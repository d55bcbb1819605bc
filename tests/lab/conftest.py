"""Fixtures of the root tests: a whole master and appliance per test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proof.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Master and appliance in a folder of their own; its path is short because sockets lie in it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-lab-")))
        yield Lab(folder, Path("/dev/shm"), stack)
