from __future__ import annotations

import re
from pathlib import Path

import pytest

from rha.appliance import config
from rha.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "docs" / "appliance.toml"

WRONG = """
listen = "7420"
store = "images"
certificate = "/etc/rha/a.pem"
key = 7
image_format = "qcow"
window = "0s"
journal_kept = "1GiB"
"""


def test_sample_shows_the_defaults() -> None:
    found = config.load(SAMPLE)
    assert (found.listen, found.image_format, found.window) == ("0.0.0.0:7420", "qcow2", 86400)
    assert found.store == "/var/lib/rha"


def test_commented_lines_of_the_sample_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^# (\w+ = )", r"\1", SAMPLE.read_text(), flags=re.MULTILINE))
    assert "\nrun_dir = " in path.read_text()
    assert config.load(path) == config.load(SAMPLE)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(WRONG)
    with pytest.raises(ConfigError) as refused:
        config.load(path)
    found = [line.strip() for line in refused.value.cause.splitlines()]
    assert [line.partition(":")[0] for line in found] == [
        "journal_kept",
        "ca",
        "key",
        "image_format",
        "listen",
        "store",
        "window",
    ]
    assert found[3] == "image_format: 'qcow' is none of qcow2, raw; did you mean qcow2?"


def test_where_an_image_lies_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    tables = [
        'disk = "a"\nrbd = "vms/root"',
        'disk = "b"\nrbd = "vms/root"',
        'disk = "c"\nrbd = "vms/ns/root"',
        'disk = "d"\nrbd = "vms/d"\nuser = "client.rha"\nkeyring = "k"',
        'disk = "e"',
        'disk = "f"\nrbd = "vms/f"\ndevice = "/dev/f"',
        'disk = "g"\nrbd = "vms/g@snap"',
    ]
    path.write_text(SAMPLE.read_text() + "".join(f'[[target]]\nscenario = "web1"\n{table}\n' for table in tables))
    with pytest.raises(ConfigError) as refused:
        config.load(path)
    assert [line.strip().partition(": ")[0] for line in refused.value.cause.splitlines()] == [
        "target[2].rbd",
        "target[3].keyring",
        "target[3].user",
        "target[4]",
        "target[5]",
        "target[6].rbd",
        "target[1].rbd",
    ]
