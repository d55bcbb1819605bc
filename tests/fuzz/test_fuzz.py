"""What fuzzing has found stays found: the corpus is replayed, and each target takes some hundred new inputs, the same
ones each time. `make fuzz SECONDS=…` looks for more."""

from __future__ import annotations

import resource

import fuzz
import harness
import pytest

RUNS, SEED = 400, 1
REPLAY_BYTES = 2 << 30  # of address space, beyond what the tests have already


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_replay(target: str) -> None:
    """Every input kept, in this process."""
    run = harness.confined(target)
    kept = fuzz.corpus(target)
    assert kept, "a target without a corpus"
    with memory_limit():
        for path in kept:
            run(path.read_bytes())


class memory_limit:
    """An input that asks for too much memory fails, instead of the machine."""

    def __enter__(self) -> None:
        with open("/proc/self/statm") as sizes:
            now = int(sizes.read().split()[0]) * resource.getpagesize()
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + REPLAY_BYTES, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_new_inputs(target: str) -> None:
    done = fuzz.fuzz(target, f"-runs={RUNS}", seed=SEED)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    inputs, _ = fuzz.figures(done.stderr).split(" inputs")
    assert int(inputs) >= RUNS


def test_a_target_that_writes_elsewhere_fails(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from targets import spool

    monkeypatch.setattr(spool, "run", lambda data, folder: (folder.parent.parent / "rha-fuzz-outside").mkdir())
    run = harness.confined("spool")
    try:
        with pytest.raises(AssertionError, match="outside of the scenario's folder"):
            run(b"")
    finally:
        (harness.Path("/dev/shm") / "rha-fuzz-outside").rmdir()
