"""Builds `rha._native`, the C part, with cffi in API mode.

Every room of csrc/ with Python callers has a header `NAME.h` whose part between the `cffi:begin` and `cffi:end` lines
is its interface; the same text is the declaration that cffi reads, so the two cannot differ.
"""

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHARED = ("record", "state")  # with the probe: structures only
ROOMS = ("ring", "bitmap", "extents", "sectorset", "hashing", "undo", "pointmap", "direct")
FLAGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]


def interface(header: Path) -> str:
    """The declarations between the marker lines of one header.

    Raises ValueError when a header has no marked part.
    """
    parts = re.findall(r"/\* cffi:begin \*/\n(.*?)/\* cffi:end \*/", header.read_text(), re.S)
    if not parts:
        raise ValueError(f"{header} has no cffi:begin / cffi:end part")
    return "".join(parts)


rooms = [room for room in ROOMS if (HERE / f"{room}.h").exists()]
ffi = FFI()
ffi.cdef("\n".join(interface(HERE / f"{name}.h") for name in (*SHARED, *rooms)))
ffi.set_source(
    "rha._native",
    "\n".join(f'#include "{name}.h"' for name in (*SHARED, *rooms)),
    sources=[os.path.relpath(HERE / f"{room}.c", ROOT) for room in rooms],
    include_dirs=[str(HERE)],
    depends=[str(path) for path in HERE.glob("*.h")],
    extra_compile_args=FLAGS,
)

if __name__ == "__main__":
    ffi.compile(tmpdir=str(ROOT), verbose=True)
