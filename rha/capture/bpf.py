"""The few bpf(2) commands that the engine needs: pinned objects, program figures, attaching. No compiler, no libbpf.

Structures follow include/uapi/linux/bpf.h (union bpf_attr, struct bpf_prog_info).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import NamedTuple

from rha.errors import HostError

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_OBJ_PIN, _OBJ_GET, _OBJ_GET_INFO_BY_FD, _RAW_TRACEPOINT_OPEN = 6, 7, 15, 17
_ATTR_BYTES = 128
_PROG_INFO_BYTES = 232
_RUN_TIME_OFFSET = 192  # run_time_ns, run_cnt, recursion_misses

BPFFS = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h

_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: int, attributes: bytes) -> int:
    """One bpf(2) call. Returns its result; raises OSError."""
    buffer = ctypes.create_string_buffer(attributes.ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)
    result = _libc.syscall(_SYSCALL[platform.machine()], command, buffer, _ATTR_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def pin(fd: int, path: Path) -> None:
    """Gives a map, program or link a name in bpffs: it then outlives the process. Raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _call(_OBJ_PIN, struct.pack("<QI", ctypes.addressof(name), fd))


def get(path: Path) -> int:
    """A file descriptor of a pinned object. Raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    fd = _call(_OBJ_GET, struct.pack("<QI", ctypes.addressof(name), 0))
    os.set_inheritable(fd, False)
    return fd


def attach_raw_tracepoint(program_fd: int, tracepoint: str) -> int:
    """Attaches a loaded program; it stays attached while the returned descriptor is open or pinned. Raises OSError."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    fd = _call(_RAW_TRACEPOINT_OPEN, struct.pack("<QI", ctypes.addressof(name), program_fd))
    os.set_inheritable(fd, False)
    return fd


class ProgramFigures(NamedTuple):
    """`run_time_ns` and `run_count` count only while kernel.bpf_stats_enabled is 1. `recursion_misses`: calls that the
    kernel skipped because the program was already running on that CPU."""

    run_time_ns: int
    run_count: int
    recursion_misses: int


def figures(program_fd: int) -> ProgramFigures:
    """What the kernel counted for one program. Raises OSError."""
    info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
    _call(_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", program_fd, _PROG_INFO_BYTES, ctypes.addressof(info)))
    return ProgramFigures(*struct.unpack_from("<QQQ", info.raw, _RUN_TIME_OFFSET))


class MissCounter:
    """`figures(fd).recursion_misses`, asked often: the buffers are made once, which leaves the system call."""

    def __init__(self, program_fd: int) -> None:
        self._info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
        attributes = struct.pack("<IIQ", program_fd, _PROG_INFO_BYTES, ctypes.addressof(self._info))
        self._attributes = attributes.ljust(_ATTR_BYTES, b"\0")
        self._buffer = ctypes.create_string_buffer(self._attributes, _ATTR_BYTES)
        self._number = _SYSCALL[platform.machine()]

    def read(self) -> int:
        """Raises OSError."""
        # The kernel takes what the structure holds as a request too (buffers for instructions, maps): all zeros asks
        # for none, and info_len is written back.
        ctypes.memset(self._info, 0, _PROG_INFO_BYTES)
        ctypes.memmove(self._buffer, self._attributes, _ATTR_BYTES)
        if _libc.syscall(self._number, _OBJ_GET_INFO_BY_FD, self._buffer, _ATTR_BYTES) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(struct.unpack_from("<Q", self._info, _RUN_TIME_OFFSET + 16)[0])


class _StatFs(ctypes.Structure):
    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_char * 112)]


def ensure_bpffs(folder: Path = BPFFS) -> None:
    """Mounts bpffs if nobody has.

    Raises HostError when it cannot be mounted.
    """
    found = _StatFs()
    if _libc.statfs(os.fsencode(folder), ctypes.byref(found)) == 0 and found.f_type == _BPF_FS_MAGIC:
        return
    if _libc.mount(b"bpf", os.fsencode(folder), b"bpf", 0, b"mode=0700") != 0:
        raise HostError(
            f"no BPF file system at {folder}",
            cause=os.strerror(ctypes.get_errno()),
            hint=f"mount -t bpf bpf {folder}",
        )
