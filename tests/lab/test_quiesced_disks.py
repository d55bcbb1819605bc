"""A quiesced bookmark on the real path: judged by the file systems' own tools, on the image at that point."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest

from proof.lab import MIB, RHA, Lab, environment, run, wait_for

pytestmark = pytest.mark.root


class Site:
    """A master with one busy file system, and the command line of its appliance."""

    def __init__(self, lab: Lab, kind: str, quiesce: str) -> None:
        self.lab = lab
        self.disk = lab.disk(400 * MIB)
        self.mnt = lab.mount(self.disk.path, kind)
        self.engine = lab.engine([self.disk.path], more=quiesce)
        lab.appliance.start()
        self.engine.start()
        self.engine.wait_ordered()
        report = partial(lab.appliance.report, self.engine.name)
        wait_for(lambda: report().get("window"), 180, report)
        writer = "i=0; while :; do i=$((i+1)); echo $i > f$((i % 50)); mkdir d$i; rm -rf d$((i-9)); sync f1; done"
        process = subprocess.Popen(["sh", "-c", writer], cwd=self.mnt)
        lab.stack.callback(process.wait)
        lab.stack.callback(process.kill)
        wait_for((self.mnt / "f9").exists, 60)

    def rha(self, *words: object, code: int = 0) -> str:
        variables = environment(self.lab.folder / "run")
        done = subprocess.run([*RHA, *map(str, words)], env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == code, (words, done.stdout, done.stderr, self.engine.log()[-2000:])
        return done.stdout + done.stderr

    def image(self, at: str) -> Path:
        """The disk at a point, as a raw file."""
        file = self.lab.memory / f"{self.engine.name}-{at}.raw"
        self.lab.stack.callback(file.unlink, missing_ok=True)
        self.rha("export", self.engine.name, file, "--format", "raw", "--at", at)
        return file


@pytest.fixture(params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def is_log_clean(kind: str, image: Path) -> bool:
    """Nothing in the journal to be replayed. A frozen xfs leaves its superblock in the log on purpose, so that the next
    mount looks for files that were deleted while open; nothing else may be there."""
    if kind == "ext4":
        return "needs_recovery" not in run("dumpe2fs", "-h", image)
    device = run("losetup", "--find", "--show", "--read-only", image)
    try:
        log = run("xfs_logprint", "-t", device)
    finally:
        run("losetup", "--detach", device)
    return log.count("TRANS:") == log.count("#items:2 ") == log.count("SUPER Block Buffer")


def test_bookmark_needs_no_replay(lab: Lab, kind: str) -> None:
    site = Site(lab, kind, "[quiesce]\n")
    name = site.engine.name
    site.rha("bookmark", name, "cut")
    said = site.rha("bookmark", name, "clean", "--quiesce")
    assert f"quiesced ({site.mnt}: frozen)" in said
    marks = {mark["name"]: mark for mark in json.loads(site.rha("points", name, "--json"))["bookmarks"]}
    assert marks["clean"]["quiesced"] == [f"{site.mnt}: frozen"]
    assert marks["cut"]["quiesced"] == []
    assert not is_log_clean(kind, site.image("cut")), "the writer was not busy: this test shows nothing"
    assert is_log_clean(kind, site.image("clean"))
