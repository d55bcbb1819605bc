from __future__ import annotations

import datetime as dt
import os
import ssl
from pathlib import Path

import pytest

from rha import pki
from rha.errors import ConfigError, StateError


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    pki.init(tmp_path / "pki", "Example")
    return tmp_path / "pki"


def test_ca_signs_leaves_only(ca: Path) -> None:
    text = ssl._ssl._test_decode_cert(str(ca / "ca.pem"))  # type: ignore[attr-defined]
    assert text["subject"] == ((("organizationName", "Example"),), (("commonName", "Example rha CA"),))
    assert pki.show(ca / "ca.pem").role == "ca"


def test_appliance_certificate_names_its_addresses(ca: Path) -> None:
    pair = pki.issue_appliance(ca, "backup", ["backup.example", "192.0.2.7", "2001:db8::7"], days=10)
    shown = pki.show(pair.certificate)
    assert (shown.role, shown.scenario, shown.days_left) == ("appliance", "", 9)
    assert shown.addresses == ["backup.example", "192.0.2.7", "2001:db8::7"]


def test_master_certificate_names_its_scenario(ca: Path) -> None:
    shown = pki.show(pki.issue_master(ca, "web1").certificate)
    assert (shown.role, shown.scenario, shown.subject) == ("master", "web1", "CN=master-web1")


def test_expired_certificate_has_negative_days_left(ca: Path) -> None:
    pair = pki.issue_master(ca, "web1", days=-2)
    assert pki.show(pair.certificate).days_left < -1
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=4000)
    assert pki.show(ca / "ca.pem", now=later).days_left < 0


def test_only_the_owner_reads_keys(ca: Path) -> None:
    mask = os.umask(0)
    try:
        pair = pki.issue_master(ca, "web1")
    finally:
        os.umask(mask)
    assert [path.stat().st_mode & 0o777 for path in (ca / "ca.key", pair.key)] == [0o600, 0o600]
    assert ca.stat().st_mode & 0o777 == 0o700


def test_key_is_never_overwritten(ca: Path) -> None:
    before = (ca / "ca.key").read_bytes()
    with pytest.raises(StateError, match="exists already"):
        pki.init(ca, "Example")
    assert (ca / "ca.key").read_bytes() == before


def test_no_key_stays_when_its_certificate_cannot_be_written(ca: Path) -> None:
    (ca / "master-web1.pem").touch()
    with pytest.raises(StateError, match="exists already"):
        pki.issue_master(ca, "web1")
    assert not (ca / "master-web1.key").exists()


@pytest.mark.parametrize("name", ["", "Web", "../web", "a" * 64, "-a", "web\n"])
def test_bad_name_is_refused(ca: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        pki.issue_master(ca, name)


@pytest.mark.parametrize("address", ["", "back up", "300.1.1.1", "backup:7420"])
def test_bad_address_is_refused(ca: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        pki.issue_appliance(ca, "backup", [address])


def test_issue_without_ca(tmp_path: Path) -> None:
    with pytest.raises(StateError) as refused:
        pki.issue_master(tmp_path, "web1")
    assert refused.value.hint == f"rha pki init {tmp_path} --name ORG"


def test_show_of_a_key(ca: Path) -> None:
    with pytest.raises(ConfigError, match="holds no certificate"):
        pki.show(ca / "ca.key")
