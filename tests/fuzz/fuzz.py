"""Fuzzes what takes foreign bytes: `python tests/fuzz/fuzz.py [TARGET …] [--seconds N | --runs N] [--seed N]`.

The targets are the modules of targets/, each a function `run(data)` that may raise RhaError and nothing else. Atheris
(libFuzzer's engine, guided by the coverage of rha's Python code) makes the data from corpus/TARGET. Each target is a
process of its own with at most MEMORY_MIB resident, which writes nowhere but in a folder of its own. What fails is put
into the corpus as `crash-…`, where `make test` repeats it for good.

Exit code 0: nothing was found; 1: something was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
TARGETS = sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py"))
MEMORY_MIB = 512
INPUT_SECONDS = 25  # one input that takes longer counts as a hang
LONGEST = 64 << 10


def corpus(target: str) -> list[Path]:
    """The inputs kept of a target."""
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def fuzz(target: str, *limit: str, seed: int) -> subprocess.CompletedProcess[str]:
    """One target with new data, in a process of its own; libFuzzer's options `limit` say how long."""
    with tempfile.TemporaryDirectory(prefix="rha-fuzz-", dir="/dev/shm") as folder:
        found = Path(folder) / "found"
        found.mkdir()
        words = [
            sys.executable,
            __file__,
            "--inside",
            target,
            str(found),
            str(CORPUS / target),
            f"-seed={seed}",
            *limit,
        ]
        words += [f"-rss_limit_mb={MEMORY_MIB}", f"-timeout={INPUT_SECONDS}", f"-max_len={LONGEST}"]
        words += [f"-artifact_prefix={CORPUS / target}/", "-print_final_stats=1", "-verbosity=1"]
        variables = os.environ | {"RHA_FUZZ_DIR": folder}  # libFuzzer leaves without any clean-up
        return subprocess.run(words, env=variables, capture_output=True, text=True, errors="replace", check=False)


def inside(target: str, words: list[str]) -> None:
    """The process of one target."""
    import atheris

    with atheris.instrument_imports(include=["rha"]):
        import harness

        run = harness.confined(target)
    atheris.Setup([target, *words], run)
    atheris.Fuzz()


def figures(said: str) -> str:
    """What libFuzzer counted."""
    stats = dict(line[6:].split(": ", 1) for line in said.splitlines() if line.startswith("stat::"))
    runs, memory = stats.get("number_of_executed_units", "?"), stats.get("peak_rss_mb", "?")
    return f"{runs.strip()} inputs, at most {memory.strip()} MiB"


def main() -> int:
    words = argparse.ArgumentParser(prog="fuzz.py")
    words.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    words.add_argument("--seconds", type=int, default=60, help="for each target")
    words.add_argument("--runs", type=int, help="inputs for each target, instead of --seconds")
    words.add_argument("--seed", type=int, default=int(time.time()))
    given = words.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        words.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    limit = f"-runs={given.runs}" if given.runs else f"-max_total_time={given.seconds}"
    failed = []
    for target in given.targets or TARGETS:
        done = fuzz(target, limit, seed=given.seed)
        print(f"{target:<12} seed {given.seed}: {figures(done.stderr)}", flush=True)
        if done.returncode:
            failed.append(target)
            print(done.stdout[-4000:] + done.stderr[-4000:])
    if failed:
        print(f"found something: {', '.join(failed)}; the inputs are in tests/fuzz/corpus/TARGET/crash-…")
    return int(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.path.insert(0, str(HERE))
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
