"""The lab's parts that need no machine: command lines, the log of dm-log-writes, a segment, questions to a report."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from rha.errors import ConfigError, StateError, StorageError
from vmlab import __main__ as command
from vmlab import ask, disk, layers, qemu, write_log
from vmlab.network import USER, Segment
from vmlab.wire import Answer, Gone, Wire

BLOCK = 512


def test_every_bus_has_its_name_in_the_machine() -> None:
    assert disk.Disk("d", Path(), "nvme").path == "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_d"
    assert disk.Disk("d", Path(), "ahci").part(2) == "/dev/disk/by-id/ata-QEMU_HARDDISK_d-part2"


def test_bad_sectors_refuse_writes_only() -> None:
    node = disk.node(disk.Disk("d", Path("/x"), "scsi", bad_sectors=(8,)))
    assert node["file"]["driver"] == "blkdebug"
    assert node["file"]["inject-error"] == [{"event": "none", "iotype": "write", "sector": 8, "errno": 5}]


def test_ahci_disks_get_a_port_each() -> None:
    some = Path("/x")
    disks = tuple(disk.Disk(name, some, "ahci") for name in ("a", "b"))
    hardware = qemu.Hardware("m", "tcg", 512, 1, some, some, some, "qcow2", some, some, disks, (USER,))
    words = qemu.words(hardware, agent=5, monitor=6)
    devices = [json.loads(word) for word in words if word.startswith('{"driver": "ide-hd"')]
    assert [one["bus"] for one in devices] == ["ide.0", "ide.1"]


def test_no_two_stacks_share_a_disk_or_a_name() -> None:
    stacks = [*layers.on_whole_disks(), *layers.on_partitions(), *layers.layered()]
    assert len({stack.name for stack in stacks}) == len({stack.key for stack in stacks}) == len(stacks)
    names = [name for stack in stacks for name, _, _ in stack.disks]
    assert len(names) == len(set(names))
    assert all(len(name) <= 20 for name in names), "QEMU cuts a virtio disk's serial number off"


def write_log_file(path: Path, *parts: tuple[int, int, bytes]) -> None:
    """A log as the kernel writes it: (flags, sector, data) each; the data of a MARK stands in its head's block."""
    heads = b""
    for flags, sector, data in parts:
        is_mark = bool(flags & write_log.MARK)
        count = 0 if is_mark else len(data) // BLOCK
        head = struct.pack("<QQQQ", sector, count, flags, len(data) if is_mark else 0)
        heads += (head + (data if is_mark else b"")).ljust(BLOCK, b"\0")
        heads += b"" if is_mark or flags & write_log.DISCARD else data
    path.write_bytes(struct.pack("<QQQI", write_log.MAGIC, 1, len(parts), BLOCK).ljust(BLOCK, b"\0") + heads)


def test_a_log_is_replayed_to_its_mark_and_no_further(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_log_file(
        log,
        (0, 2, b"a" * 1024),
        (write_log.FUA, 3, b"b" * 512),
        (write_log.FLUSH, 0, b""),
        (write_log.MARK, 0, b"here"),
        (write_log.DISCARD, 2, bytes(512)),
        (write_log.MARK, 0, b"there"),
    )
    replayed = write_log.Replayed(log, tmp_path / "image", 4096)
    replayed.to_mark("here")
    expected = bytes(1024) + b"a" * 512 + b"b" * 512 + bytes(2048)
    assert replayed.image.read_bytes() == expected
    replayed.to_mark("there")
    assert replayed.image.read_bytes() == bytes(1536) + b"b" * 512 + bytes(2048)
    with pytest.raises(StorageError, match="no mark nowhere"):
        replayed.to_mark("nowhere")
    replayed.close()


def test_another_file_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(4096))
    with pytest.raises(StorageError, match="no log of dm-log-writes"):
        list(write_log.entries(tmp_path / "log"))


def report(**changes: Any) -> dict[str, Any]:
    one = {"name": "d", "state": "write-order", "reason": "synced", "left_order": {"reboot": 1}}
    return {"disks": [one | changes], "connected": True, "lag_bytes": 0, "alarms": []}


def test_ordered_means_connected_and_acknowledged_too() -> None:
    assert ask.is_so("ordered", report())
    assert not ask.is_so("ordered", report(state="bitmap"))
    assert not ask.is_so("ordered", report() | {"lag_bytes": 8})
    assert not ask.is_so("ordered", report() | {"connected": False})


def test_a_disks_state_and_losses_can_be_asked_for() -> None:
    assert ask.is_so("d=unknown/removed", report(state="unknown", reason="removed"))
    assert ask.is_so("d:reboot:1", report())
    assert not ask.is_so("d:reboot:2", report())
    assert ask.is_so("alarm", report() | {"alarms": ["d: gone"]})


def test_an_unknown_scene_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nothing"]) in (ConfigError.code, 4)  # 4: not root
    assert "error:" in capsys.readouterr().err


class Guest:
    """The other end of a wire, by hand."""

    def __init__(self) -> None:
        here, self.port = socket.socketpair()
        self.wire = Wire(here)
        self.lines = self.port.makefile("rb")

    def send(self, **message: Any) -> None:
        self.port.sendall(b"\n" + json.dumps(message).encode() + b"\n")

    def hang_up(self) -> None:
        self.lines.close()
        self.port.close()

    def begin_call(self) -> tuple[list[Answer], list[Exception], threading.Thread]:
        """A call under way in a thread; returns when its request is here."""
        answers: list[Answer] = []
        errors: list[Exception] = []

        def call() -> None:
            try:
                answers.append(self.wire.call(["true"], b"", 5))
            except StateError as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert json.loads(self.lines.readline())["argv"] == ["true"]
        return answers, errors, thread


def test_a_boot_is_announced_once_though_the_agent_starts_twice() -> None:
    guest = Guest()
    guest.send(boot="one")
    guest.send(boot="one")
    guest.port.sendall(b'{"id": 7, "torn')
    guest.send(boot="two")
    assert guest.wire.wait_boot(1, 5)
    assert guest.wire.boots() == 2
    guest.hang_up()
    with pytest.raises(Gone, match="while it booted"):
        guest.wire.wait_boot(2, 5)
    guest.wire.close()


def test_a_call_ends_with_its_answer() -> None:
    guest = Guest()
    answers, _, thread = guest.begin_call()
    guest.send(id=1, code=3, stdout="b3V0", stderr="")
    thread.join(5)
    assert answers == [Answer(3, b"out", b"")]
    guest.wire.close()


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_a_call_that_its_machine_does_not_outlive_is_gone(how: str) -> None:
    guest = Guest()
    answers, errors, thread = guest.begin_call()
    if how == "reboot":
        guest.send(boot="again")
    else:
        guest.hang_up()
    thread.join(5)
    assert not answers
    assert isinstance(errors[0], Gone)
    guest.wire.close()


@pytest.mark.root
def test_a_segment_connects_its_cards_until_one_is_unplugged() -> None:
    with Segment() as segment:
        card = segment.card()
        before = subprocess.check_output([*segment.prefix, "ip", "-j", "link", "show", "master", "br0"])
        segment.plug(card, is_in=False)
        after = subprocess.check_output([*segment.prefix, "ip", "-j", "link", "show", "master", "br0"])
    assert [one["ifname"] for one in json.loads(before)] == ["tap0"]
    assert json.loads(after) == []
    assert "br0" not in subprocess.check_output(["ip", "-o", "link"], text=True).split(), "it was made in this host"
