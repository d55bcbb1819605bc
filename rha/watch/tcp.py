"""Does a TCP port accept a connection?"""

from __future__ import annotations

import os
import socket
import time

from rha.watch.base import NoAnswer


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`.

    Raises NoAnswer when it is neither: a check that cannot be asked must count as unanswered, never stop the watch.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise NoAnswer(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def connect(address: str, timeout: float) -> socket.socket:
    """An open connection; the caller closes it. Raises NoAnswer with the system's reason in lower case."""
    try:
        return socket.create_connection(split_address(address), timeout=timeout)
    except TimeoutError as error:
        raise NoAnswer(f"no answer within {timeout:g} s") from error
    except socket.gaierror as error:
        raise NoAnswer(f"name not found ({error.strerror})") from error
    except OSError as error:
        raise NoAnswer(os.strerror(error.errno).lower() if error.errno else str(error)) from error


def attempt(address: str, timeout: float) -> float:
    """Seconds that connecting took. Raises NoAnswer."""
    begun = time.monotonic()
    connect(address, timeout).close()
    return time.monotonic() - begun
