"""The trial and what is made of it."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from rha.errors import VmError
from rha.vm import accelerator
from rha.vm.accelerator import TRIAL_SECTOR, Accelerator, Trial, choose, try_out

needs_qemu = pytest.mark.skipif(shutil.which(accelerator.QEMU) is None, reason="no qemu-system-x86_64")


@needs_qemu
def test_tcg_passes_the_trial():
    trial = try_out("tcg", limit=30)
    assert trial.output == "RPLT\n"
    assert trial.sentence("tcg").startswith("tcg ran a long-mode guest in ")


@needs_qemu
def test_a_guest_that_hangs_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(accelerator, "TRIAL_SECTOR", b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa")
    begun = time.monotonic()
    trial = try_out("tcg", limit=1.0)
    assert time.monotonic() - begun < 3
    assert re.fullmatch(r"tcg hangs: nothing after firmware within [\d.]+ s", trial.sentence("tcg"))


@needs_qemu
def test_an_accelerator_that_does_not_start():
    trial = try_out("hax", limit=5)  # type: ignore[arg-type]
    assert "tcg" not in trial.sentence("hax")
    assert trial.sentence("hax").startswith("hax does not start: ")


@pytest.mark.skipif(shutil.which("as") is None or shutil.which("ld") is None, reason="no assembler")
def test_the_bytes_are_those_of_the_source(tmp_path):
    source = Path(accelerator.__file__).with_name("trial.S")
    subprocess.run(["as", "--64", source, "-o", tmp_path / "o"], check=True)
    words = ["-m", "elf_x86_64", "-Ttext", "0x7c00", "-e", "start", "--oformat", "binary"]
    subprocess.run(["ld", *words, tmp_path / "o", "-o", tmp_path / "bin"], check=True)
    assert (tmp_path / "bin").read_bytes() == TRIAL_SECTOR


def test_the_answer_is_remembered_for_this_boot_only(tmp_path, monkeypatch):
    cache, device = tmp_path / "run" / "accelerator.json", tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "try_out", lambda name: Trial("RPLT\n", 0.4))
    assert choose(cache=cache, device=device) == Accelerator("kvm", "kvm ran a long-mode guest in 0.4 s")
    monkeypatch.setattr(accelerator, "try_out", lambda name: Trial("RPL", 8.0))
    assert choose(cache=cache, device=device).name == "kvm"
    note = msgspec.json.decode(cache.read_bytes())
    cache.write_bytes(msgspec.json.encode({**note, "boot_id": "another"}))
    found = choose(cache=cache, device=device)
    assert (str(found), found.why) == ("tcg", "kvm hangs: nothing after long mode within 8 s")


def test_kvm_demanded_and_not_there(tmp_path):
    with pytest.raises(VmError) as caught:
        choose("kvm", cache=tmp_path / "c", device=tmp_path / "kvm")
    assert caught.value.cause == f"{tmp_path / 'kvm'} does not exist"


def test_tcg_wanted_needs_no_trial(tmp_path):
    assert choose("tcg", cache=tmp_path / "c", device=Path("/nonexistent")).name == "tcg"
    assert not (tmp_path / "c").exists()
