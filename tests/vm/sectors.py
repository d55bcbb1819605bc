"""Tiny guests: boot sectors written by hand."""

from pathlib import Path

# cli; ds = 0; si = message; dx = 0x3f8; loop: lodsb, out until 0; then hlt for ever. The message follows the code.
_PRINT = bytes.fromhex("fa31c08ed8be187cbaf803ac84c07403eeebf8f4ebfd")


def printing_sector(message: bytes) -> bytes:
    """512 bytes that print a message on the first serial port and stop."""
    code = _PRINT.ljust(0x18, b"\x90") + message + b"\0"
    assert len(code) <= 440
    return code.ljust(510, b"\0") + b"\x55\xaa"


def printing_disk(path: Path, message: bytes, size: int = 1 << 20) -> Path:
    """A raw disk that boots by BIOS: the sector, and GRUB's name in it, as a loader's would be."""
    with path.open("wb") as file:
        file.write(printing_sector(message + b"\0GRUB"))
        file.truncate(size)
    return path
