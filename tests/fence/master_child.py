"""A master's side of one lease as a process: `python -m tests.fence.master_child LEASE_JSON RUN_DIR SYSTEMCTL…`."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import msgspec

from rha.fence.holder import Holder
from rha.fence.serving import Host
from rha.scenario import Appliance, Lease, Scenario, decode_unit


def main(lease_text: str, run_dir: str, *systemctl: str) -> None:
    lease = msgspec.json.decode(lease_text, type=Lease, dec_hook=decode_unit)
    ends = Appliance(address="a:1", ca="/a", certificate="/b", key="/c")
    scenario = Scenario(name="web", disk=[], appliance=ends, lease=lease)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    host = Host(systemctl=systemctl) if systemctl else Host()
    holder = Holder(scenario, lease, Path(run_dir), lambda line: print(line, flush=True), host)
    holder.start()
    stop.wait()
    holder.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
