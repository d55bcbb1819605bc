"""Masters that break off, flood, or never read, and a disk that does not answer: the others go on, and what is said
about it is true."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bench.masters import jain
from proof.lab import MIB, Lab, run, wait_for
from proof.replay import Replay, scan
from proof.storms import why_differs
from proof.stranger import DISK_BYTES, FIRST_LSN, Feeder, Stranger, connected, hello_of, records, stranger
from rha.appliance.daemon import HELLO_SECONDS, MOST_GREETERS
from rha.errors import NetworkError
from rha.wire import frames
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root


@pytest.fixture
def store_of_its_own(lab: Lab) -> Iterator[Path]:
    """The store on a file system that can be frozen."""
    store = lab.appliance.store
    store.mkdir()
    disk = lab.disk(4096 * MIB)  # sparse; less would be below the reserve
    run("mkfs.ext4", "-q", disk.path)
    run("mount", disk.path, store)
    try:
        yield store
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(store)], check=False, stderr=subprocess.DEVNULL)
        lab.appliance.stop()
        run("umount", store)


def test_an_old_connection_whose_journal_hangs(lab: Lab, store_of_its_own: Path) -> None:
    """The next one is told why it cannot be received, and is as soon as the disk answers."""
    lab.appliance.start()
    with stranger(lab, "hung") as one:
        one.welcome()
        one.first_sync()
        run("fsfreeze", "--freeze", store_of_its_own)
        run_of_records = records(4, 4096, DISK_BYTES, 1)
        one.data(FrameType.RECORDS, run_of_records, lsn=FIRST_LSN, seq=3)
        wait_for(lambda: said(lab, "has not answered for"), 30, lambda: lab.appliance.report("hung"))
    with stranger(lab, "hung") as two:
        begun = time.monotonic()
        refusal = two.refusal()
        assert time.monotonic() - begun < 8
        assert refusal.error == "hung cannot be received now"
        assert "has not answered for" in refusal.cause
    run("fsfreeze", "--unfreeze", store_of_its_own)
    wait_for(lambda: not said(lab, "has not answered for"), 30, lambda: lab.appliance.report("hung"))
    with stranger(lab, "hung") as three:
        assert three.welcome().durable_lsn in (FIRST_LSN, FIRST_LSN + len(run_of_records))


def said(lab: Lab, words: str) -> bool:
    return any(words in alarm for alarm in lab.appliance.report("hung")["alarms"])


def floods_with_digests(one: Stranger) -> None:
    for _ in range(40_000):
        one.data(FrameType.HASHES, bytes(16), lsn=FIRST_LSN)


def asks_about_everything(one: Stranger) -> None:
    one.data(FrameType.HASHES, bytes(16 << 20), lsn=FIRST_LSN)


def sends_beyond_its_credit(one: Stranger) -> None:
    run_of_records, lsn = records(255, 64 << 10, DISK_BYTES, 1)[: 16 << 20], FIRST_LSN
    for _ in range(64):
        one.data(FrameType.RECORDS, run_of_records, lsn=lsn)
        lsn += len(run_of_records)


def beats_and_never_reads(one: Stranger) -> None:
    beat = frames.control(FrameType.HEARTBEAT, {"time": 1.0, "captured_lsn": 1}) * 1000
    for _ in range(200):
        one.raw(beat)


def never_greets(one: Stranger) -> None:
    one.raw(b"R")


ROUGH = (floods_with_digests, asks_about_everything, sends_beyond_its_credit, beats_and_never_reads, never_greets)


@pytest.mark.parametrize("rough", ROUGH, ids=[rough.__name__ for rough in ROUGH])
def test_a_rough_master_beside_others(lab: Lab, rough: object) -> None:
    """It is refused or not listened to; the others are acknowledged meanwhile, the appliance's memory stays bounded."""
    lab.appliance.start()
    assert lab.appliance.process is not None
    good = [Feeder(lab, f"good{number}", count=1, rate=256 << 10) for number in range(3)]
    for feeder in good:
        lab.stack.callback(feeder.stop)
        feeder.greet()
        feeder.start()
    with stranger(lab, "rough", hello_of(lab, "rough", 1 << 40)) as one:
        one.welcome()
        one.first_sync()
        one.sock.settimeout(2)
        before = [feeder.acknowledged for feeder in good]
        with contextlib.suppress(OSError):  # it is hung up on, or nobody reads it any more
            rough(one)  # type: ignore[operator]
        for feeder, old in zip(good, before, strict=True):
            wait_for(lambda f=feeder, o=old: f.acknowledged > o + (256 << 10), 60, lab.appliance.log)
        assert resident_mib(lab.appliance.process.pid) < 400, lab.appliance.log()
    assert lab.appliance.is_running
    assert "Traceback" not in lab.appliance.log(), lab.appliance.log()
    for feeder in good:
        assert feeder.failure is None
        assert max(feeder.delays) < 30


def resident_mib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) >> 8


def test_a_crowd_that_never_greets(lab: Lab) -> None:
    """Only so many are waited for; a master gets through once their time is over."""
    lab.appliance.start()
    assert lab.appliance.process is not None
    feeder = Feeder(lab, "good", count=1, rate=256 << 10)
    lab.stack.callback(feeder.stop)
    feeder.greet()
    feeder.start()
    with contextlib.ExitStack() as crowd:
        for _ in range(2 * MOST_GREETERS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", lab.port), 30))
        assert threads(lab.appliance.process.pid) < MOST_GREETERS + 60
        before = feeder.acknowledged
        wait_for(lambda: feeder.acknowledged > before + MIB, 60, lab.appliance.log)
        wait_for(lambda: is_welcome(lab, "late"), 90, lab.appliance.log)
    assert "Traceback" not in lab.appliance.log(), lab.appliance.log()


def is_welcome(lab: Lab, name: str) -> bool:
    with contextlib.suppress(NetworkError, OSError), stranger(lab, name) as one:
        return bool(one.welcome().disks)
    return False


def test_a_greeting_that_takes_for_ever(lab: Lab) -> None:
    """A byte now and then is no silence; it is hung up on all the same."""
    lab.appliance.start()
    with connected(lab, "slow") as sock:
        sock.settimeout(HELLO_SECONDS + 60)
        over = threading.Event()
        dripping = threading.Thread(target=drip, args=(sock, over))
        dripping.start()
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass  # the last byte came after the end
        finally:
            over.set()
            dripping.join()
    assert is_welcome(lab, "slow")


def drip(sock: socket.socket, over: threading.Event) -> None:
    with contextlib.suppress(OSError):
        for byte in frames.encode(FrameType.HELLO, bytes(4096)) + bytes(4096):
            if over.wait(1):
                return
            sock.sendall(bytes([byte]))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


MASTERS, EACH_BYTES = 8, 6 * MIB


def test_eight_masters_have_their_shares(lab: Lab) -> None:
    """All send as fast as they are let: nobody starves, and each has in its own image what it has sent."""
    lab.appliance.start()
    feeders = [Feeder(lab, f"m{number}", size=16 * MIB) for number in range(MASTERS)]
    for feeder in feeders:
        lab.stack.callback(feeder.stop)
        feeder.greet()
        feeder.start()
    wait_for(lambda: all(feeder.acknowledged for feeder in feeders), 120, lab.appliance.log)
    before = [feeder.acknowledged for feeder in feeders]
    wait_for(
        lambda: all(f.acknowledged >= old + EACH_BYTES for f, old in zip(feeders, before, strict=True)),
        240,
        lambda: [feeder.acknowledged for feeder in feeders],
    )
    shares = [float(feeder.acknowledged - old) for feeder, old in zip(feeders, before, strict=True)]
    assert jain(shares) > 0.5, shares
    for feeder in feeders:
        feeder.stop()
    for feeder in feeders:
        lab.appliance.wait_applied(feeder.scenario, 240)
    lab.appliance.stop()
    for number, feeder in enumerate(feeders):
        journal = lab.appliance.store / feeder.scenario / "journal"
        with TemporaryDirectory(dir="/dev/shm") as folder:
            end = Replay(journal, [Path(folder) / "disk.raw"], scan(journal).sizes)
            end.to_end()
            assert why_differs(lab.appliance.image(feeder.scenario, "d0"), end.files[0]) is None, number
