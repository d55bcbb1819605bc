"""A protected server at rest: memory, disks, certificates and the appliance's store, of one moment. Booting, capturing
and comparing take minutes under emulation; the scenes of one run all begin at the same moment instead, each with copies
of its own. The clients' part begins after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.disks import run

FILES = ("pki", "system.raw", "data.raw")  # below the scene's folder; `store` besides


@dataclass(frozen=True)
class Rest:
    """The folder of one kind of server. It exists once one was kept."""

    folder: Path

    @property
    def exists(self) -> bool:
        return (self.folder / "port").exists()

    @property
    def port(self) -> int:
        """At which that server expects its appliance."""
        return int((self.folder / "port").read_text())

    @property
    def memory(self) -> Path:
        """Of the machine; it is only read."""
        return self.folder / "memory"

    def begin(self) -> Path:
        """Makes the folder; returns where the machine's memory goes."""
        self.folder.mkdir(parents=True, mode=0o700)
        return self.memory

    def keep(self, work: Path, port: int) -> None:
        """The rest of it. Machine and appliance are off. Raises DeviceError."""
        for name in (*FILES, "store"):
            _copy(work / name, self.folder / name)
        (self.folder / "port").write_text(str(port))  # last: it says that the rest is whole

    def lay_out(self, work: Path) -> None:
        """Everything but the store. Raises DeviceError."""
        for name in FILES:
            _copy(self.folder / name, work / name)

    def fill(self, store: Path) -> None:
        """The store, into a folder that may be a file system of its own. Raises DeviceError."""
        _copy(self.folder / "store", store)


def _copy(source: Path, target: Path) -> None:
    words = ("--archive", "--sparse=always", "--reflink=auto", "--no-target-directory")
    run("cp", *words, str(source), str(target))
