"""The first sync by a medium, as the manual tells it: export where the disks are, carry, import. Here the "medium" is a
folder, and the export is done while the server has never been switched on. What is left for its engine is to compare.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from demo import product
from lab import SCENARIO
from lab.disks import ServerDisks, run

KEY_BYTES = 32


def seed(disks: ServerDisks, scenario: str, folder: Path, run_dir: Path) -> None:
    """Fills the appliance's images from the disks. `scenario`: the text of the server's file. Raises RhaError."""
    medium, key, file = folder / "medium", folder / "medium.key", folder / "here.toml"
    medium.mkdir()
    key.write_bytes(os.urandom(KEY_BYTES))
    with ExitStack() as stack:
        for name, path in disks.by_name().items():
            loop = run("losetup", "--find", "--show", "--read-only", str(path))
            stack.callback(run, "losetup", "--detach", loop)
            scenario = scenario.replace(f"/dev/disk/by-id/virtio-{name}", loop)
        file.write_text(scenario)
        words = ("sync", "export", str(medium), "--scenario", str(file), "--key-file", str(key))
        product.rha(*words, run_dir=run_dir)
    product.rha("sync", "import", str(medium), "--name", SCENARIO, "--key-file", str(key), run_dir=run_dir)
