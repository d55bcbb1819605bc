"""`auto` compresses where that lets data arrive sooner, and says by what figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.engine.compression import GAIN, REMEMBER_SECONDS, LineRate, Measured, Packer, choose
from rha.wire import codec

MB = 10**6
LZ4, ZSTD = Measured(0.5, 1 / (800 * MB)), Measured(0.35, 1 / (300 * MB))
BOTH = {"lz4": LZ4, "zstd": ZSTD}


@pytest.mark.parametrize(
    ("rate", "number", "why"),
    [
        (0, codec.NONE, "not compressed: the line is not the limit"),
        (10 * MB, codec.ZSTD, "zstd: 2.9 times smaller, 2.6 times as fast, line 9.54 MiB/s"),
        (150 * MB, codec.LZ4, "lz4: 2.0 times smaller, 1.5 times as fast, line 143 MiB/s"),
        (1000 * MB, codec.NONE, "not compressed: lz4 would be 0.57 times as fast, line 954 MiB/s"),
    ],
)
def test_the_faster_the_line_the_lighter_the_codec(rate: int, number: int, why: str) -> None:
    assert choose(BOTH, rate) == (number, why)


def test_what_does_not_shrink_is_not_compressed() -> None:
    assert choose({"zstd": Measured(1.0, 1 / (300 * MB))}, MB).codec == codec.NONE
    assert choose({}, MB) == (codec.NONE, "not compressed yet: nothing measured, line 977 KiB/s")


ANY = st.builds(Measured, st.floats(0.01, 1.1), st.floats(1e-10, 1e-6))


@given(st.fixed_dictionaries({"lz4": ANY, "zstd": ANY}), st.floats(1e4, 1e10))
def test_the_choice_is_never_slower_than_none(measured: dict[str, Measured], rate: float) -> None:
    choice = choose(measured, rate)
    if choice.codec:
        one = measured["lz4" if choice.codec == codec.LZ4 else "zstd"]
        assert (one.seconds + one.ratio / rate) * GAIN <= 1 / rate * (1 + 1e-9)


def test_line_rate_is_known_only_where_it_is_waited_for() -> None:
    line = LineRate()
    line.look(1.0, 100 * MB, 0.5, 0.01)
    assert line.rate == 0.0, "the kernel took everything at once"
    line.look(2.0, 110 * MB, 1.5, 0.9)
    assert line.rate == 10 * MB
    line.look(3.0, 130 * MB, 2.5, 1.8)
    assert line.rate == 15 * MB, "half of what was"


def test_a_relieved_line_is_remembered_for_a_while() -> None:
    line = LineRate()
    line.look(1.0, 10 * MB, 1.0, 0.9)
    line.look(1.0 + REMEMBER_SECONDS, 10 * MB, 1.0, 0.9)
    assert line.rate == 10 * MB
    line.look(2.0 + REMEMBER_SECONDS, 10 * MB, 1.0, 0.9)
    assert line.rate == 0.0


def test_packer_measures_before_it_decides() -> None:
    packer = Packer("auto", ["lz4", "zstd"])
    data = b"the same again " * 8192
    assert packer.pack(data, 0.0).codec == codec.NONE
    assert packer.pack(data, 1 * MB).codec != codec.NONE
    assert "times smaller" in packer.choice.why


def test_a_codec_that_the_appliance_does_not_read() -> None:
    packer = Packer("zstd", ["lz4"])
    assert packer.pack(bytes(4096), 0.0).codec == codec.NONE
    assert packer.choice.why == "not compressed: the appliance does not read zstd"
    assert Packer("lz4", ["lz4"]).pack(bytes(4096), 0.0).codec == codec.LZ4
