"""The compiled probe, judged by a rule of Linux 6.1 that newer kernels have given up: here it loads anyway."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from rha.capture import pins, probe

LD_IMM64, JMP, JMP32 = 0x18, 5, 6
JA, CALL, EXIT = 0x00, 0x80, 0x90
BPF_TO_BPF = 1

Instruction = tuple[int, int, int, int]  # opcode, registers, offset, immediate
Edge = tuple[int, bool]  # where to, and whether it may go back


def edges(code: list[Instruction], at: int) -> Iterator[Edge]:
    """Ways on from an instruction, as check_cfg() of kernel/bpf/verifier.c (6.1) walks them: a jump may close a loop,
    falling through from anything else may not."""
    opcode, registers, offset, immediate = code[at]
    kind, operation = opcode & 7, opcode & 0xF0
    if kind not in (JMP, JMP32) or opcode == LD_IMM64:
        yield at + 1, False
    elif operation == CALL:
        yield at + 1, False
        if registers >> 4 == BPF_TO_BPF:
            yield at + immediate + 1, False
    elif operation == JA:
        yield at + offset + 1, True
    elif operation != EXIT:
        yield at + 1, True
        yield at + offset + 1, True


def refused_edges(code: list[Instruction]) -> list[tuple[int, int]]:
    """(from, to) of every edge that leads back and may not."""
    found, open_now, done = [], {0}, set[int]()
    path = [(0, edges(code, 0))]
    while path:
        at, rest = path[-1]
        for to, may_go_back in rest:
            if to in open_now and not may_go_back:
                found.append((at, to))
            if to not in open_now and to not in done:
                open_now.add(to)
                path.append((to, edges(code, to)))
                break
        else:
            path.pop()
            open_now.discard(at)
            done.add(at)
    return found


def decoded(program: bytes) -> list[Instruction]:
    return [struct.unpack_from("<BBhi", program, at) for at in range(0, len(program), 8)]


def test_a_loop_that_falls_through_to_its_head_is_found() -> None:
    move, jump, leave = (0xB7, 0, 0, 0), (0x05, 0, 2, 0), (0x95, 0, 0, 0)
    falls = [jump, (0x15, 0, 2, 0), move, move, (0x05, 0, -4, 0), leave]  # 0 → 3 → 4 → 1 → 2 → 3
    assert refused_edges(falls) == [(2, 3)]
    jumps = [move, move, (0x15, 0, -2, 0), leave]
    assert refused_edges(jumps) == []


@pytest.mark.root
def test_no_program_of_the_probe_has_a_loop_that_debians_kernel_refuses() -> None:
    flags = ("-DRING_PAGES=1024", "-DNCPUS=2", "-DBITMAP_WORDS=64", f"-DFLIGHTS={probe.FLIGHTS}")
    module = probe._Compiler(probe.kernel_flags()).compile(probe.PARTS, *flags)
    found = {
        name: refused_edges(decoded(module.dump_func(name.encode()))) for name in (*pins.PROGRAMS, *probe.CONTINUATIONS)
    }
    assert not any(found.values()), found
