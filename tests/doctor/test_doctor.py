from __future__ import annotations

import json
from pathlib import Path

import pytest

from rha.cli import main
from rha.doctor import appliance, check, master
from rha.doctor.check import Finding
from rha.errors import HostError, VmError
from rha.vm.guest import outside

MEMINFO = "MemTotal:       {total} kB\nMemFree: 1 kB\nMemAvailable:   {available} kB\n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("release", "grade"),
    [("6.1.0-18-amd64", "ok"), ("5.19.0", "ok"), ("5.18.19", "fault"), ("4.18.0-553.el8", "fault"), ("odd", "fault")],
)
def test_kernel(release: str, grade: str) -> None:
    assert master.kernel(release).grade == grade


def test_tracepoints_are_looked_up_as_whole_names(tmp_path: Path) -> None:
    names = [f"btf_trace_{name}" for name in master.TRACEPOINTS]
    there = write(tmp_path / "all", ("\0".join(["", *names, ""])).encode())
    longer = write(tmp_path / "longer", ("\0".join(["", *names[:-1], names[-1] + "_old", ""])).encode())
    assert master.tracepoints(there).grade == "ok"
    assert master.tracepoints(longer).finding == f"missing: {master.TRACEPOINTS[-1]}"
    assert master.tracepoints(tmp_path / "none").grade == "fault"
    assert master.btf(tmp_path / "none").grade == "fault"


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("[none] integrity confidentiality\n", "ok"),
        ("none [integrity] confidentiality\n", "ok"),
        ("none integrity [confidentiality]\n", "fault"),
    ],
)
def test_lockdown(tmp_path: Path, text: str, grade: str) -> None:
    assert master.lockdown(write(tmp_path / "lockdown", text)).grade == grade


def test_bpffs(tmp_path: Path) -> None:
    known = write(tmp_path / "filesystems", "nodev\tsysfs\nnodev\tbpf\n")
    unknown = write(tmp_path / "few", "nodev\tsysfs\n")
    mounted = write(tmp_path / "mounts", "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n")
    not_mounted = write(tmp_path / "bare", "sysfs /sys sysfs rw 0 0\n")
    assert master.bpffs(known, mounted).grade == "ok"
    assert master.bpffs(known, not_mounted).hint == "mount -t bpf bpf /sys/fs/bpf"
    assert master.bpffs(unknown, not_mounted).grade == "fault"


@pytest.mark.parametrize(
    ("total", "available", "grade", "ring"),
    [
        (24 << 20, 20 << 20, "ok", "1 GiB"),
        (128 << 20, 99 << 20, "ok", "2 GiB"),
        (512 << 10, 400 << 10, "warning", "32 MiB"),
        (24 << 20, 512 << 10, "fault", "1 GiB"),
    ],
)
def test_memory(total: int, available: int, grade: str, ring: str) -> None:
    found = master.memory(MEMINFO.format(total=total, available=available))
    assert found.grade == grade
    assert f"default ring {ring}" in found.finding


@pytest.mark.parametrize(("source", "grade"), [("tsc", "ok"), ("kvm-clock", "ok"), ("hpet", "warning")])
def test_clock(tmp_path: Path, source: str, grade: str) -> None:
    assert master.clock(write(tmp_path / "source", source + "\n")).grade == grade


def test_missing_parts_are_faults_with_a_package() -> None:
    assert check.program("no-such-program", "some-package").hint == "apt install some-package"
    found = check.module("no_such_module", "python3-none")
    assert (found.grade, found.hint[:25]) == ("fault", "apt install python3-none;")


def test_refusal_as_a_finding() -> None:
    found = check.of_error("accelerator", VmError("no guest runs", cause="both tried", hint="dmesg"))
    assert found == Finding("accelerator", "fault", "no guest runs: both tried", "dmesg")


def test_firmware(tmp_path: Path) -> None:
    assert appliance.ovmf((tmp_path,)).hint == "apt install ovmf"
    write(tmp_path / "OVMF_CODE_4M.fd", b"")
    assert appliance.ovmf((tmp_path / "none", tmp_path)).grade == "ok"


def test_without_libguestfs_a_guest_boots_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = HostError("libguestfs is missing", cause="no module", hint="apt install python3-guestfs")
    monkeypatch.setattr(outside, "why_not", lambda: refusal)
    found = appliance.guest()
    assert (found.grade, found.hint) == ("warning", "apt install python3-guestfs")
    assert found.finding == "libguestfs is missing: no module; substitutes boot as their masters were"


def test_space_of_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    assert appliance.space(tmp_path / "not" / "yet").finding.endswith(f"free in {tmp_path}")


def test_table_and_worst() -> None:
    findings = [Finding("a", "ok", "fine"), Finding("long name", "warning", "hm", "do this")]
    assert check.table(findings).splitlines() == [
        "ok       a          fine",
        "warning  long name  hm",
        "                    hint: do this",
    ]
    assert [check.worst(findings), check.worst([]), check.worst([*findings, Finding("b", "fault", "")])] == [
        "warning",
        "ok",
        "fault",
    ]


@pytest.mark.root
def test_this_host_can_be_a_master(capsys: pytest.CaptureFixture[str]) -> None:
    code = main.run(["doctor", "--role", "master", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [found for found in findings if found["grade"] == "fault"] == []
    assert code == 0
    assert len(findings) == len(master.checks())
