"""The appliance's images at any LSN: the product's own journal, applier and storage daemon, fed with a recorded stream
just up to there. This is the code that is judged; the recording is read by proof/journal.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nbd

from proof import journal
from proof.journal import BadJournal, Frame
from rha.appliance.apply import Applier
from rha.control import local
from rha.image import formats
from rha.image.client import read_only_export
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType

READ_BYTES = 256 << 10  # larger ones leave the processor's cache and are half as fast
APPLY_SECONDS = 60.0


class AppliedImages:
    """qcow2 images that follow a recording; `to` moves them to a cut, `differences` compares them."""

    def __init__(self, folder: Path, recording: Path, sizes: Sequence[int]) -> None:
        """`recording`: a journal's folder. Everything made here lies in `folder`."""
        self._stack = ExitStack()
        self._frames = journal.frames(recording)
        self._pending: Frame | None = None
        self._lsn = 0
        specs = [ImageSpec(f"d{i}", folder / f"d{i}.qcow2", "qcow2") for i in range(len(sizes))]
        for spec, size in zip(specs, sizes, strict=True):
            formats.create(spec.path, size)
        self._daemon = self._stack.enter_context(StorageDaemon(specs, folder / "run"))
        self._journal = self._stack.enter_context(Journal.open(folder / "journal"))
        writers = [self._stack.enter_context(self._daemon.writer(spec.name)) for spec in specs]
        self._applier = Applier(self._journal, writers, folder / "checkpoint.json")
        self._applier.start()
        self._stack.callback(self._applier.stop)
        self._readers = [_reader(self._daemon.socket, spec.name) for spec in specs]
        self._stack.callback(self._readers.clear)

    def to(self, cut: int) -> None:
        """Applies everything up to and with the record that ends at LSN `cut`; returns when it is in the images."""
        while self._lsn < cut:
            frame = self._pending or next(self._frames, None)
            self._pending = None
            if frame is None:
                raise BadJournal(f"the stream ends at LSN {self._lsn}, before {cut}")
            self._take(frame, cut)
        self._applier.durable(self._journal.sync())
        assert self._applier.wait_applied(self._journal.end, APPLY_SECONDS), "not applied in time"

    def _take(self, frame: Frame, cut: int) -> None:
        """Journals a frame, or as much of a RECORDS frame as lies below the cut; the rest stays pending."""
        if frame.type != journal.RECORDS:
            self._append(frame, frame.payload, frame.lsn)
            return
        inside = min(cut, frame.lsn + len(frame.payload)) - frame.lsn
        self._append(frame, frame.payload[:inside], frame.lsn)
        self._lsn = frame.lsn + inside
        if inside < len(frame.payload):
            self._pending = frame._replace(lsn=self._lsn, payload=frame.payload[inside:])

    def _append(self, frame: Frame, payload: memoryview, lsn: int) -> None:
        whole = frames.pad(bytes(payload))
        head = frames.encode(
            FrameType(frame.type),
            whole,
            lsn=lsn,
            disk=frame.disk,
            offset=frame.offset,
            flags=frame.flags,
            time_ns=frame.time_ns,
            raw_length=len(payload),
        )
        self._journal.append([head, whole])

    def differences(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]:
        """As `differences` below."""
        return differences(self._readers, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def differences(readers: Sequence[Any], files: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Where images, each read over a connection of libnbd, are not these raw files: (disk, byte offset of a range of
    256 KiB that differs)."""
    expected = bytearray(READ_BYTES)
    for disk, (reader, path) in enumerate(zip(readers, files, strict=True)):
        size = path.stat().st_size
        with path.open("rb", buffering=0) as file, memoryview(expected) as view:
            for at in range(0, size, READ_BYTES):
                length = min(READ_BYTES, size - at)
                assert file.readinto(view[:length]) == length
                if reader.pread(length, at) != view[:length]:
                    yield disk, at


class OpenedPoints:
    """The images of an appliance that runs and goes on receiving: at each cut the point of that LSN is opened, as
    `rha export` and `rha mount` do."""

    def __init__(self, control: Path, scenario: str, disks: int) -> None:
        """`control`: the appliance's socket."""
        self._control, self._scenario, self._disks = control, scenario, disks
        self._name = ""
        self._readers: list[Any] = []

    def oldest(self) -> int:
        """The first LSN of the window, as the appliance says."""
        listing = local.call(self._control, "points", timeout=APPLY_SECONDS, scenario=self._scenario)
        return int(listing["spans"][0]["lsn"])

    def to(self, cut: int) -> None:
        """Opens the point at LSN `cut`."""
        self._close()
        point = local.call(self._control, "open_point", timeout=APPLY_SECONDS, scenario=self._scenario, at=str(cut))
        self._name = point["name"]
        assert point["lsn"] == cut, f"the point at LSN {point['lsn']} was opened, not {cut}"
        self._readers = [_connect(Path(point["socket"]), f"d{i}") for i in range(self._disks)]

    def differences(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]:
        """As `differences` above."""
        return differences(self._readers, files)

    def content(self, disk: int) -> bytearray:
        """All of one disk at the point."""
        reader, found = self._readers[disk], bytearray()
        while rest := reader.get_size() - len(found):
            found += reader.pread(min(READ_BYTES, rest), len(found))
        return found

    def _close(self) -> None:
        self._readers = []
        if self._name:
            local.call(self._control, "close_point", timeout=APPLY_SECONDS, scenario=self._scenario, name=self._name)
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _reader(socket: Path, name: str) -> Any:
    return _connect(socket, read_only_export(name))


def _connect(socket: Path, export: str) -> Any:
    """A plain connection of its own: what anybody else reads of the image."""
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(str(socket))
    return handle
