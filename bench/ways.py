"""One disk, three ways: without rha, captured only, captured and shipped by the real engine over TLS.

Between two measurements the engine is ended and the probe detached, not only told to look away: "without" is a kernel
that runs nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.lab import MEMORY, drained
from bench.process import cpu_seconds
from proof.lab import Engine, Lab, wait_for
from rha.capture import bpf, pins
from rha.capture.capture import Capture
from rha.capture.device import lookup

WITHOUT, CAPTURED, SHIPPED = "without", "captured", "shipped"
NAMES = (WITHOUT, CAPTURED, SHIPPED)
ACKNOWLEDGE_SECONDS = 60.0


class Ways:
    """`engine` belongs to this device; the probe is loaded and detached, the first sync is done."""

    def __init__(self, device: str, engine: Engine) -> None:
        self._device, self._engine = device, engine
        self._detach()
        self.lost: dict[str, int] = {}  # losses of order since the load, by reason
        self.engine_cpu = 0.0  # seconds of the engine in the last "shipped", until everything was acknowledged
        self.shipped_bytes = 0  # payload in the last "shipped"

    @contextlib.contextmanager
    def go(self, way: str) -> Iterator[None]:
        """The disk is written to inside the block; leaving it waits until everything captured is acknowledged."""
        if way == WITHOUT:
            yield
            return
        with self._attached(), self._captured() if way == CAPTURED else self._shipped():
            yield

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        for link, (program, tracepoint) in pins.LINKS.items():
            program_fd = bpf.get(pins.folder(self._engine.name) / program)
            fd = bpf.attach_raw_tracepoint(program_fd, tracepoint)
            bpf.pin(fd, pins.folder(self._engine.name) / link)
            os.close(fd)
            os.close(program_fd)
        try:
            yield
        finally:
            self._detach()

    def _detach(self) -> None:
        for link in pins.LINKS:
            (pins.folder(self._engine.name) / link).unlink()

    @contextlib.contextmanager
    def _adopted(self) -> Iterator[Capture]:
        capture = Capture(self._engine.name, [lookup(self._device)])
        try:
            yield capture
        finally:
            capture.close()

    @contextlib.contextmanager
    def _captured(self) -> Iterator[None]:
        with self._adopted() as capture:
            capture.enter_data_mode(0)
            with drained(capture):
                yield
            self.lost = capture.losses(0)

    @contextlib.contextmanager
    def _shipped(self) -> Iterator[None]:
        with self._adopted() as capture:
            capture.enter_data_mode(0)
        engine = self._engine
        engine.start()
        try:
            engine.wait_ordered()
            before = engine.report()["payload_bytes"]
            assert engine.process is not None
            cpu = cpu_seconds(engine.process.pid)
            yield
            wait_for(lambda: engine.report()["lag_bytes"] == 0, ACKNOWLEDGE_SECONDS, engine.log)
            self.engine_cpu = cpu_seconds(engine.process.pid) - cpu
            self.shipped_bytes = engine.report()["payload_bytes"] - before
            self.lost = engine.losses()
        finally:
            engine.kill()


@contextlib.contextmanager
def acknowledging_lab() -> Iterator[Lab]:
    """A lab whose appliance only acknowledges."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        lab = Lab(folder, MEMORY, stack)
        files = [lab.pki / name for name in ("ca.pem", "appliance-lab.pem", "appliance-lab.key")]
        words = [sys.executable, "-m", "bench.acknowledger", f"127.0.0.1:{lab.port}", *map(str, files)]
        with (folder / "acknowledger.log").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield lab


def first_sync(engine: Engine) -> None:
    """Loads the probe, waits for the first sync, ends the engine; the probe stays."""
    engine.start()
    engine.wait_ordered()
    engine.stop()
