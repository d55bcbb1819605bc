"""A real libvirt daemon and a folder that its VM user can reach."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rha.vm.libvirt import LibvirtHost


@pytest.fixture
def libvirt_host(libvirt_answers: None) -> Iterator[LibvirtHost]:
    """The system's libvirt."""
    host = LibvirtHost()
    yield host
    host.close()


@pytest.fixture
def store() -> Iterator[Path]:
    """pytest's own folders are closed to other users, all the way up; this one stands where a store could."""
    folder = Path(tempfile.mkdtemp(prefix="rha-test-", dir="/var/lib"))
    yield folder
    shutil.rmtree(folder)
