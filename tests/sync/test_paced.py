"""Whose turn the disk is: asked of the kernel itself."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from rha.sync.paced import give_way, io_class


def test_only_the_calling_thread_gives_way() -> None:
    found: list[object] = []

    def sync() -> None:
        found.append(give_way())
        found.append(io_class())
        said = subprocess.run(
            ["ionice", "-p", str(threading.get_native_id())], check=True, capture_output=True, text=True
        )
        found.append(said.stdout.strip())

    before = io_class()
    thread = threading.Thread(target=sync)
    thread.start()
    thread.join()
    assert found == [True, 3, "idle"]
    assert io_class() == before


def test_threads_that_it_starts_give_way_as_well() -> None:
    """Those that read ahead for a sync."""
    found: list[int] = []

    def sync() -> None:
        give_way()
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(io_class).result())

    thread = threading.Thread(target=sync)
    thread.start()
    thread.join()
    assert found == [3]
