"""The victim of a kill with a point mounted. Arguments: store, directory to mount on, image of the disk."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from one_replica import Master, opened, wait_for

store, where, image = map(Path, sys.argv[1:])
replica = opened(store)
master = Master(replica)
master.greet("a" * 32, 8)
master.sync(image.read_bytes())
wait_for(lambda: bool(replica._images.history.intervals))
replica.points.open("now").mount(where)
print("mounted", flush=True)
time.sleep(600)
