"""The units allow what the daemons do: a sandbox that is too narrow fails on the day of a failover, not before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("unit", ["rha-engine@.service", "rha-appliance.service"])
def test_every_family_of_sockets_is_allowed(unit: str) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "rha").rglob("*.py"))
    used = set(re.findall(r"socket\.(AF_[A-Z0-9]+)", sources)) | {"AF_INET6", "AF_NETLINK"}  # TCP by name; pyroute2
    (allowed,) = re.findall(r"^RestrictAddressFamilies=(.*)$", (ROOT / "packaging" / unit).read_text(), re.MULTILINE)
    assert "AF_PACKET" in used
    assert used <= set(allowed.split())
