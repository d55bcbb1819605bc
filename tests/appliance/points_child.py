"""The victim of test_points_kill: a replica that takes and applies a made-up stream.

Arguments: folder, seed, count; target.json, with the places of its images, may lie in the folder. Says `ready`, the
number of each frame that it has committed, and `done`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from one_replica import DISK_BYTES, Master, opened
from stream import DISCARD, WRITE, record

from rha.appliance import apply, history
from rha.appliance.config import Target
from rha.decoding import from_json
from rha.wire import frames
from rha.wire.frames import FrameType

FIRST_LSN, BASE_BYTES = 8, 1 << 20


def hasten() -> None:
    """Many checkpoints and intervals in the tenths of a second that a victim lives."""
    apply.CHECKPOINT_SECONDS, apply.BATCH_BYTES, history.INTERVAL_BYTES = 0.004, 100_000, 300_000


def base(seed: int) -> bytes:
    """What the first sync brings."""
    return random.Random(seed).randbytes(BASE_BYTES)


def stream(seed: int, count: int) -> list[bytes]:
    """Frames of records, the same for the same seed."""
    draw, lsn, whole = random.Random(seed + 1), FIRST_LSN, []
    for number in range(count):
        run = b""
        for _ in range(draw.randrange(1, 12)):
            length = 512 * draw.choice([1, 3, 8, 8, 32])
            sector = draw.randrange((DISK_BYTES // draw.choice([1, 8, 8]) - length) // 512)
            op = WRITE if draw.random() < 0.85 else DISCARD
            run += record(op, 0, sector, length, draw.randbytes(length) if op == WRITE else b"")
        whole.append(frames.encode(FrameType.RECORDS, run, lsn=lsn, time_ns=(1000 + number) * 10**9) + run)
        lsn += len(run)
    return whole


def main(folder: Path, seed: int, count: int) -> None:
    hasten()
    whole = stream(seed, count)
    targets = folder / "target.json"
    replica = opened(folder, target=from_json(targets.read_bytes(), list[Target]) if targets.exists() else [])
    master = Master(replica)
    welcome = master.greet("a" * 32, FIRST_LSN)
    if welcome.disks[0].need != "nothing":
        master.sync(base(seed))
    print("ready", flush=True)
    reached = replica.durable_lsn
    for number, raw in enumerate(whole):
        header = frames.decode_header(raw[: frames.HEADER_BYTES])
        if header.lsn < reached:
            continue
        replica.take(header, memoryview(raw)[frames.HEADER_BYTES :])
        if number % 3 == 0:
            replica.commit()
            print(number, flush=True)
        if number % 25 == 0:
            replica.wait_applied(timeout=60)  # past redo, where intervals begin
    replica.commit()
    assert replica.wait_applied(timeout=60)
    replica.close()
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
