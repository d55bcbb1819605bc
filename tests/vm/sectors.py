"""Tiny guests: boot sectors written by hand."""

from pathlib import Path

# cli; ds = 0; si = message; dx = 0x3f8; loop: lodsb, out until 0; then hlt for ever. The message follows the code.
_PRINT = bytes.fromhex("fa31c08ed8be187cbaf803ac84c07403eeebf8f4ebfd")
# Fills 512 bytes with W at 0x8000; int 13h, AH 43h: writes them to sector WRITTEN_SECTOR; AH 42h: reads it to 0x9000;
# the message at 0x68 when that is W again, else "bad", on the serial port; hlt for ever.
_WRITE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfbfcbf0080b057b90002f3aabe567cb80043cd13721bc7065a7c0090b442be567ccd13720c80"
    "3eff91577505be687ceb03be4f7cbaf803ac84c07403eeebf8faf4ebfd6261640d0a00901000010000800000640000000000"
    "0000"
)
WRITTEN_SECTOR = 100


def printing_sector(message: bytes, code: bytes = _PRINT, at: int = 0x18) -> bytes:
    """512 bytes that print a message on the first serial port and stop."""
    code = code.ljust(at, b"\x90") + message + b"\0"
    assert len(code) <= 440
    return code.ljust(510, b"\0") + b"\x55\xaa"


def printing_disk(path: Path, message: bytes, size: int = 1 << 20) -> Path:
    """A raw disk that boots by BIOS: the sector, and GRUB's name in it, as a loader's would be."""
    return _disk(path, printing_sector(message + b"\0GRUB"), size)


def writing_disk(path: Path, message: bytes, size: int = 1 << 20) -> Path:
    """As `printing_disk`; before it prints, the guest writes to its disk and reads that again."""
    return _disk(path, printing_sector(message + b"\0GRUB", _WRITE, 0x68), size)


def _disk(path: Path, sector: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(sector)
        file.truncate(size)
    return path
