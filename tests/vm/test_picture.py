"""Pictures of screens: PPM becomes PNG, and what is neither is refused."""

import pytest

from rha.errors import VmError
from rha.vm.picture import as_png
from tests.vm.png import read_png

PIXELS = bytes(range(18))


@pytest.mark.parametrize("head", [b"P6\n3 2\n255\n", b"P6 # by hand\n3 2 255 ", b"P6\n# a\n# b\n3 2\n255\n"])
def test_ppm_becomes_png(head):
    made = as_png(head + PIXELS)
    assert read_png(made) == (3, 2, [b"\0" + PIXELS[:9], b"\0" + PIXELS[9:]])
    assert as_png(made) == made


@pytest.mark.parametrize("content", [b"", b"P5\n3 2\n255\n" + PIXELS, b"P6\n3 2\n65535\n" + PIXELS])
def test_neither_is_refused(content):
    with pytest.raises(VmError, match="cannot be read"):
        as_png(content)


def test_a_cut_off_picture_is_refused():
    with pytest.raises(VmError) as caught:
        as_png(b"P6\n3 2\n255\n" + PIXELS[:-1])
    assert caught.value.cause == "17 bytes for 3x2 pixels"
