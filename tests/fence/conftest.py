"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fence.etcd_server import Server, running
from tests.redirect.wires import Segment


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "etcd") as server:
        yield server


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment()
    yield segment
    segment.close()
