"""Who a certificate says its holder is: the two URIs that stand in its subjectAltName."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

APPLIANCE_URI = "urn:rha:appliance"
MASTER_URI = "urn:rha:master:"  # and the scenario's name


class Identity(NamedTuple):
    """A peer whose certificate was verified. `role`: appliance or master; `scenario`: the master's, else empty.

    `not_after`: end of the certificate's validity, seconds since the epoch.
    """

    role: str
    scenario: str
    subject: str
    not_after: float


def role_of(uris: Iterable[str]) -> tuple[str, str]:
    """Role and scenario of SAN URIs; two empty texts unless exactly one of them is ours."""
    ours = [uri for uri in uris if uri == APPLIANCE_URI or uri.startswith(MASTER_URI)]
    if len(ours) != 1:
        return "", ""
    if ours[0] == APPLIANCE_URI:
        return "appliance", ""
    scenario = ours[0].removeprefix(MASTER_URI)
    return ("master", scenario) if scenario else ("", "")
