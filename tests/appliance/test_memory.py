import subprocess
import sys

# Freeing 32 MiB raises the threshold to that; then every second block stays, as in a queue that others fill.
CHILD = """
import sys
from pathlib import Path
from rha.appliance import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) >> 8

if sys.argv[1] == "yes":
    assert memory.give_back()
one = b'x' * (31 << 20)
del one
before = resident()
blocks, small = [], []
for number in range(200):
    blocks.append(b"x" * (1 << 20))
    small.append(bytes(2000 + number))
blocks.clear()
print(resident() - before)
"""


def left_mib(wanted: str) -> int:
    words = [sys.executable, "-c", CHILD, wanted]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def test_what_is_freed_goes_back() -> None:
    assert left_mib("no") > 100, "the C library gives it back by itself: the module is no longer needed"
    assert left_mib("yes") < 20
