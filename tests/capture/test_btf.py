"""The BTF parser: a blob made by hand, the running kernel's, and bytes of somebody who means no good."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.capture import btf
from rha.errors import HostError

INT, STRUCT, ENUM, FUNC_PROTO, ENUM64 = 1, 4, 6, 13, 19
BITFIELDS = 1 << 31


class Blob:
    """Builds a BTF blob (Documentation/bpf/btf.rst) type by type."""

    def __init__(self) -> None:
        self.types, self.strings = b"", b"\0"

    def name(self, text: str) -> int:
        at = self.strings.find(b"\0" + text.encode() + b"\0")
        if at >= 0:
            return at + 1
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(self, kind: int, name: str, size: int, vlen: int = 0, body: bytes = b"", flags: int = 0) -> None:
        self.types += struct.pack("<III", self.name(name) if name else 0, flags | kind << 24 | vlen, size) + body

    def struct(self, name: str, size: int, members: list[tuple[str, int]], flags: int = 0) -> None:
        body = b"".join(
            struct.pack("<III", self.name(member) if member else 0, 1, offset) for member, offset in members
        )
        self.add(STRUCT, name, size, len(members), body, flags)

    def bytes(self) -> bytes:
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return head + self.types + self.strings


@pytest.fixture
def blob() -> Blob:
    made = Blob()
    made.add(INT, "int", 4, body=bytes(4))
    made.add(FUNC_PROTO, "", 0, 2, bytes(16))
    made.struct("bio", 96, [("bi_next", 0), ("bi_bdev", 64), ("", 128), ("bi_iter", 256)])
    made.struct("flags", 8, [("whole", 4 << 24 | 32), ("odd", 3 << 24 | 37)], BITFIELDS)
    made.add(ENUM, "req_op", 4, 2, struct.pack("<IiIi", made.name("REQ_OP_READ"), 0, made.name("REQ_OP_WRITE"), 1))
    made.add(ENUM64, "wide", 8, 1, struct.pack("<III", made.name("REQ_OP_WIDE"), 7, 0))
    made.struct("bio", 1, [("bi_next", 800)])
    return made


def test_offsets_sizes_and_values(blob: Blob) -> None:
    found = btf.parse(blob.bytes(), {"bio", "flags"}, {"REQ_OP_WRITE", "REQ_OP_WIDE", "REQ_OP_NONE"})
    assert found.structs["bio"] == btf.Struct(96, {"bi_next": 0, "bi_bdev": 8, "bi_iter": 32})
    assert found.structs["flags"].offsets == {"whole": 4}, "a member that begins inside a byte has no offset"
    assert found.values == {"REQ_OP_WRITE": 1, "REQ_OP_WIDE": 7}


def test_a_missing_structure_is_named(blob: Blob) -> None:
    with pytest.raises(HostError, match="lacks structures") as caught:
        btf.parse(blob.bytes(), {"bio", "gendisk", "request"}, set())
    assert caught.value.cause == "not in BTF: gendisk, request"


def test_a_kernel_without_btf(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no BTF") as caught:
        btf.load({"bio"}, set(), tmp_path / "none")
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint


def parse_or_refuse(data: bytes) -> None:
    with contextlib.suppress(HostError):
        btf.parse(data, {"bio"}, {"REQ_OP_WRITE"})


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    parse_or_refuse(data)
    parse_or_refuse(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), 0, len(data)) + data)


@given(st.data())
def test_a_damaged_blob_is_parsed_or_refused(data: st.DataObject) -> None:
    made = Blob()
    made.struct("bio", 96, [("bi_next", 0), ("bi_bdev", 64)])
    made.add(ENUM, "req_op", 4, 1, struct.pack("<Ii", made.name("REQ_OP_WRITE"), 1))
    raw = bytearray(made.bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    parse_or_refuse(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


@pytest.mark.skipif(not btf.VMLINUX.exists(), reason="this kernel has no BTF")
def test_the_running_kernel() -> None:
    found = btf.load({"bio", "bio_vec"}, {"REQ_OP_WRITE"})
    assert found.structs["bio_vec"].size == 16
    assert found.structs["bio"].offsets.keys() >= {"bi_bdev", "bi_opf", "bi_iter", "bi_io_vec"}
    assert found.values == {"REQ_OP_WRITE": 1}
