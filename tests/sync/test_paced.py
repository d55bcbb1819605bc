"""Whose turn the disk is: asked of the kernel itself."""

from __future__ import annotations

import subprocess
import threading

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
