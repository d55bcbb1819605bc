"""A real libvirt daemon and a folder that its VM user can reach."""

import shutil
import tempfile
from pathlib import Path

import pytest

from rha.errors import VmError
from rha.vm.libvirt import LibvirtHost


@pytest.fixture
def libvirt_host():
    """The system's libvirt. Skips where it does not answer."""
    host = LibvirtHost()
    try:
        host.state("rha-no-such-domain")
    except VmError as error:
        pytest.skip(error.cause)
    yield host
    host.close()


@pytest.fixture
def store():
    """pytest's own folders are closed to other users, all the way up; this one stands where a store could."""
    folder = Path(tempfile.mkdtemp(prefix="rha-test-", dir="/var/lib"))
    yield folder
    shutil.rmtree(folder)
