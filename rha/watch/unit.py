"""Is a systemd unit active on this host? Only the master's engine asks this; it tells it with its heartbeats."""

from __future__ import annotations

import subprocess
import time

from rha.scenario import Check
from rha.watch.base import NoAnswer

SYSTEMCTL = "systemctl"


def attempt(check: Check, timeout: float, systemctl: str = SYSTEMCTL) -> float:
    """Seconds until systemd had answered. Raises NoAnswer unless the unit is active (also one that is reloading)."""
    begun = time.monotonic()
    words = [systemctl, "show", "--property=LoadState,ActiveState,SubState,Result", check.address]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"systemd does not answer within {timeout:g} s") from error
    except OSError as error:
        raise NoAnswer(f"systemd cannot be asked: {error.strerror}") from error
    if done.returncode:
        raise NoAnswer(f"systemd cannot be asked: {' '.join(done.stderr.split())}")
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    why = why_not(found)
    if why:
        raise NoAnswer(why)
    return time.monotonic() - begun


def why_not(found: dict[str, str]) -> str | None:
    """The reason why these properties are not those of a unit that serves, or None."""
    if found.get("LoadState") != "loaded":
        return f"systemd says: {found.get('LoadState') or 'nothing'}"
    active, sub, result = found.get("ActiveState", ""), found.get("SubState", ""), found.get("Result", "")
    if active in ("active", "reloading"):
        return None
    return f"it is {active} ({sub}{'' if result in ('', 'success') else f', {result}'})"
