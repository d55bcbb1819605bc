"""The process that holds libguestfs: `python -m rha.vm.guest.child`, a Request on its standard input, an Answer on its
standard output.

A process of its own: a hang or crash in C is its end and not the appliance's, and it gives up root before it looks at
anything. It reaches the guest's disks through sockets that were opened to it, and no other file of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

import guestfs
import msgspec

from rha.vm.guest import drivers
from rha.vm.guest.adapt import plan
from rha.vm.guest.inside import Guest
from rha.vm.guest.travel import Answer, Request
from rha.vm.guest.tree import Unknown

_PR_SET_PDEATHSIG = 1


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    _give_up_root(request)
    try:
        answer = work(request)
    except (RuntimeError, UnicodeError) as error:  # libguestfs, and its binding over texts that are no UTF-8
        answer = Answer(error="libguestfs failed", cause=str(error)[-2000:])
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def _give_up_root(request: Request) -> None:
    """The signal at the parent's end is asked for after that: the kernel forgets it when a process becomes another
    user. Raises OSError."""
    os.setgroups(request.gids)
    os.setresgid(*[request.gids[0]] * 3)
    os.setresuid(*[request.uid] * 3)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def work(request: Request) -> Answer:
    """One launch, one answer. Raises RuntimeError, as every call of libguestfs may."""
    begun = time.monotonic()
    handle = guestfs.GuestFS(python_return_dict=True)
    for socket, name in request.exports:
        handle.add_drive_opts(name, format="raw", protocol="nbd", server=[f"unix:{socket}"], discard="besteffort")
    handle.set_network(False)
    handle.launch()
    launched = time.monotonic() - begun
    try:
        answer = _adapt(handle, request) if request.act == "adapt" else _revert(handle, request)
        handle.umount_all()
        handle.shutdown()  # raises when not everything was written
    finally:
        handle.close()
    answer.launch_seconds, answer.seconds = launched, time.monotonic() - begun
    return answer


def _adapt(handle: Any, request: Request) -> Answer:
    """What is not known is left alone, with a warning. What stops a write is an error: some of it was written then."""
    guest = Guest(handle)
    answer = Answer(bus=request.bus)
    try:
        answer.warnings += guest.mount()
        answer.system = guest.system
        if not request.bus:
            answer.bus, answer.bus_why, _ = guest.bus()
        wish = msgspec.structs.replace(request.wish, driver=drivers.NETWORK[answer.bus or drivers.FALLBACK])
        wanted = plan(guest.tree(), wish, request.mark)
    except Unknown as error:
        answer.system = guest.system
        answer.warnings.append(str(error))
        if not answer.bus:
            answer.bus, answer.bus_why, _ = drivers.unknown("the guest's system is not known")
        return answer
    answer.said, answer.warnings = wanted.said, [*answer.warnings, *wanted.warnings]
    try:
        answer.kept = guest.write(wanted.edits)
    except Unknown as error:
        answer.error, answer.cause = "the guest's files cannot be changed", str(error)
    return answer


def _revert(handle: Any, request: Request) -> Answer:
    guest, answer = Guest(handle), Answer()
    try:
        answer.warnings += guest.mount()
        answer.kept = guest.restore(request.kept)
    except Unknown as error:
        answer.error = "the guest's files cannot be put back"
        answer.cause = str(error)
    answer.system = guest.system
    answer.said = [f"{one.path} is as it was" for one in request.kept if one.before is not None]
    answer.said += [f"{one.path} is removed" for one in request.kept if one.before is None]
    return answer


if __name__ == "__main__":
    sys.exit(main())
