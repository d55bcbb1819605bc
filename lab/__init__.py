"""The whole story in machines: a server that dies in one way or another, its appliance, its substitute, its clients."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = Path("/var/lib/rha-lab")  # not in the tree: QEMU runs as a user of its own, which cannot look into /root
REST = Path("/var/lib/rha-lab-rest")  # what the scenes of one run begin with
RESULT = ROOT / "build" / "lab.json"
LOGS = ROOT / "build" / "lab-logs"
SCENARIO = "server"
