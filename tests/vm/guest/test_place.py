"""The folder of a look into a guest, and what killed ones have left."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rha.errors import HostError
from rha.vm.guest import place as module
from rha.vm.guest.place import place

HOLD = """
import sys
from pathlib import Path
from rha.vm.guest import place
place.PLACES = Path(sys.argv[1])
with place.place() as made:
    (made / "initramfs").write_bytes(bytes(4096))
    print(made, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "PLACES", tmp_path / "places")
    return tmp_path / "places"


def test_others_pass_through_and_cannot_list(places: Path) -> None:
    with place() as made:
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in (places, made)] == [0o711, 0o711]
        (made / "disks").mkdir()
        (made / "disks" / "left").touch()
    assert list(places.iterdir()) == []


def test_what_a_killed_one_has_left_goes_and_what_a_living_one_has_stays(places: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(places)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        theirs = Path(holder.stdout.readline().strip())
        with place() as mine:
            assert sorted(places.iterdir()) == sorted([theirs, mine])
            assert (theirs / "initramfs").exists()
        os.kill(holder.pid, signal.SIGKILL)
    assert list(places.iterdir()) == [theirs]
    with place() as mine:
        assert list(places.iterdir()) == [mine]


def test_where_it_cannot_be_made(places: Path) -> None:
    places.write_text("in the way")
    with pytest.raises(HostError, match="cannot be used") as caught, place():
        pass
    assert "File exists" in caught.value.cause
