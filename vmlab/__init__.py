"""The lab: real Debian machines under QEMU, with disks of every kind, networks between them, and power to cut."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
