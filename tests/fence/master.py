"""A master in a network namespace: its lease's holder and sentry are real processes, its units real ones, too."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from rha.fence import permit
from rha.fence.sentry import standing_path
from tests.redirect.wires import Host

ROOT = Path(__file__).parents[2]
SYSTEMCTL = """#!/bin/bash
# Stands where systemctl would: no systemd runs on the tests host. A unit is a process of its own.
dir=$(dirname "$0")/units; mkdir -p "$dir"; verb=$1; unit=${!#}; pid=$(cat "$dir/$unit" 2>/dev/null)
running() { [ -n "$pid" ] && [ -d "/proc/$pid" ] && ! grep -q "^State:.Z" "/proc/$pid/status"; }
case "$*" in *LoadState*) [ -e "$(dirname "$0")/$unit" ] && echo loaded || echo not-found; exit 0 ;; esac
case $verb in
show) running && echo active || echo inactive ;;
start)
  running && exit 0
  setsid env --default-signal "$(dirname "$0")/$unit" </dev/null >/dev/null 2>&1 &
  echo $! > "$dir/$unit" ;;
stop) running && kill "$pid" ;;
kill) running && kill -9 "$pid" ;;
poweroff) touch "$dir/poweroff" ;;
esac
exit 0
"""
STUBBORN = "#!/usr/bin/python3\nimport signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"


class Master:
    """`lease` as in a scenario, in plain values."""

    def __init__(self, folder: Path, host: Host, lease: dict[str, object]) -> None:
        self._folder, self.host, self._lease = folder, host, lease
        self.run_dir = folder / "run"
        folder.mkdir()
        self._systemctl = folder / "systemctl"
        for path, text in ((self._systemctl, SYSTEMCTL), (folder / "stubborn.service", STUBBORN)):
            path.write_text(text)
            path.chmod(0o755)
        self.log = folder / "log"

    @property
    def _permit(self) -> Path:
        return self.run_dir / "web.permit"

    def start(self) -> None:
        """An engine's holder in the host's namespace."""
        words = [sys.executable, "-m", "tests.fence.master_child", json.dumps(self._lease), str(self.run_dir)]
        with self.log.open("ab") as log:
            self.engine = subprocess.Popen(
                [*self.host.prefix, *words, str(self._systemctl)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )

    def state(self) -> str:
        found = permit.standing(standing_path(self._permit))
        return found.state if found else ""

    def sentry(self) -> int:
        found = permit.standing(standing_path(self._permit))
        assert found is not None
        return found.process

    def has(self, address: str) -> bool:
        return address in self.host.addresses()

    def runs(self, unit: str) -> bool:
        return "active" in subprocess.check_output([str(self._systemctl), "show", unit], text=True).split()

    def signal(self, number: int, *, sentry: bool = False) -> None:
        os.kill(self.sentry() if sentry else self.engine.pid, number)

    def close(self) -> None:
        """Nothing of it is left, neither processes nor units."""
        for pid in {self.engine.pid, *([self.sentry()] if self.state() else [])}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.engine.wait()
        subprocess.run([str(self._systemctl), "kill", "stubborn.service"], check=True)
