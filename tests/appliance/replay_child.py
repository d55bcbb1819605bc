"""The victim of test_apply's kills: journals a stream and applies it. Arguments: folder, seed, count."""

import sys
from pathlib import Path

from rha.appliance import apply
from rha.appliance.apply import Applier
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.journal.segment import Journal

sys.path.insert(0, str(Path(__file__).parent))
from stream import Stream

# Several checkpoints in the tenths of a second that a victim lives, and batches between them.
apply.CHECKPOINT_SECONDS = 0.01
apply.BATCH_BYTES = 256 << 10


def main(folder: Path, seed: int, count: int) -> None:
    stream = Stream(seed, count)
    images = [ImageSpec(f"disk{n}", folder / f"disk{n}.qcow2", "qcow2") for n in range(2)]
    journal = Journal.open(folder / "journal", segment_bytes=4 << 20)
    with StorageDaemon(images, folder / "run") as daemon:
        writers = [daemon.writer(image.name) for image in images]
        applier = Applier(journal, writers, folder / "checkpoint", keep_bytes=8 << 20)
        applier.start()
        print(f"ready {journal.end} {applier.saved.position} {journal.cut_bytes}", flush=True)
        position = 0
        for number, frame in enumerate(stream.frames):
            position += len(frame)
            if position <= journal.end:
                continue
            journal.append([frame[:72], frame[72:]])
            if number % 3 == 0:
                applier.durable(journal.sync())
        applier.durable(journal.sync())
        applier.wait_applied(journal.end, 60)
        applier.stop()
        for writer in writers:
            writer.close()
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
