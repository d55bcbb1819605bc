"""Offsets of kernel structures from the running kernel's own BTF. Pure parser, no bpftool.

Format: Documentation/bpf/btf.rst of the kernel. Never from a vmlinux.h compiled by hand: that loses packed enums and
gives wrong offsets (`bi_iter` came out 36 instead of 32 on 6.18).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from rha.errors import HostError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_STRUCT, _UNION, _ENUM, _TYPEDEF, _CONST, _VOLATILE, _ENUM64 = 4, 5, 6, 8, 10, 9, 19
# Bytes that follow the 12-byte struct btf_type, by kind: fixed part, part per vlen.
_TAIL = {
    1: (4, 0),  # INT
    2: (0, 0),  # PTR
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    7: (0, 0),  # FWD
    8: (0, 0),  # TYPEDEF
    9: (0, 0),  # VOLATILE
    10: (0, 0),  # CONST
    11: (0, 0),  # RESTRICT
    12: (0, 0),  # FUNC
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    16: (0, 0),  # FLOAT
    17: (4, 0),  # DECL_TAG
    18: (0, 0),  # TYPE_TAG
    19: (0, 12),  # ENUM64
}


@dataclass
class Struct:
    """A structure: size and member offsets, in bytes. Members of anonymous structs and unions are not resolved."""

    size: int
    offsets: dict[str, int] = field(default_factory=dict)


@dataclass
class Btf:
    """The named structures and enumerators that were asked for."""

    structs: dict[str, Struct]
    values: dict[str, int]


def parse(data: bytes, structs: set[str], enumerators: set[str]) -> Btf:
    """Finds the named structures and enumerators in one BTF blob.

    Of several structures of one name the first counts, as for bpftool. Raises HostError when the blob is no BTF or a
    structure is missing; a missing enumerator is left out (kernels differ, the caller decides).
    """
    try:
        found = _walk(data, structs, enumerators)
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise HostError("the kernel's BTF cannot be read", cause=repr(error)) from error
    missing = structs - found.structs.keys()
    if missing:
        raise HostError(
            "this kernel lacks structures that the probe reads",
            cause=f"not in BTF: {', '.join(sorted(missing))}",
            hint="report the kernel version; the probe knows Linux 6.1 and later",
        )
    return found


def _walk(data: bytes, structs: set[str], enumerators: set[str]) -> Btf:
    magic, _, _, header, type_off, type_len, str_off, _ = struct.unpack_from("<HBBIIIII", data)
    if magic != _MAGIC:
        raise HostError("the kernel's BTF cannot be read", cause=f"magic {magic:#x}")
    strings, position, end = header + str_off, header + type_off, header + type_off + type_len
    names = _wanted_offsets(data, strings, structs)
    found = Btf({}, {})
    unpack = struct.Struct("<III").unpack_from
    while position < end:
        name, info, size = unpack(data, position)
        kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
        fixed, each = _TAIL[kind]
        body = position + 12 + fixed
        if kind == _STRUCT and name in names and names[name] not in found.structs:
            found.structs[names[name]] = _members(data, strings, body, vlen, size, bool(info >> 31))
        elif kind in (_ENUM, _ENUM64):
            _enumerators(data, strings, body, vlen, each, enumerators, found.values)
        position = body + each * vlen
    return found


def _wanted_offsets(data: bytes, strings: int, names: set[str]) -> dict[int, str]:
    """String-table offset → name. BTF strings are deduplicated, so each name stands there once."""
    found = {}
    for name in names:
        at = data.find(b"\0" + name.encode() + b"\0", strings)
        if at >= 0:
            found[at + 1 - strings] = name
    return found


def _string(data: bytes, strings: int, offset: int) -> str:
    start = strings + offset
    return data[start : data.index(b"\0", start)].decode()


def _members(data: bytes, strings: int, body: int, vlen: int, size: int, has_bitfields: bool) -> Struct:
    result = Struct(size)
    for i in range(vlen):
        name, _, offset = struct.unpack_from("<III", data, body + 12 * i)
        bits = offset & 0xFFFFFF if has_bitfields else offset
        if name and bits % 8 == 0:
            result.offsets.setdefault(_string(data, strings, name), bits // 8)
    return result


def _enumerators(
    data: bytes, strings: int, body: int, vlen: int, each: int, wanted: set[str], values: dict[str, int]
) -> None:
    for i in range(vlen):
        name, low = struct.unpack_from("<II", data, body + each * i)
        text = _string(data, strings, name)
        if text in wanted:
            values.setdefault(text, low)


def load(structs: set[str], enumerators: set[str], path: Path = VMLINUX) -> Btf:
    """`parse` of the running kernel's BTF.

    Raises HostError with a hint when the kernel has none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HostError(
            "the kernel offers no BTF",
            cause=str(error),
            hint="use a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 11 and later, RHEL 8.2 and later have it)",
        ) from error
    return parse(data, structs, enumerators)
