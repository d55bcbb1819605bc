"""Does an HTTP(S) server answer as it should: one of the expected statuses, and a text in the body?

Redirects are not followed: a balancer that sends everybody elsewhere is not the answer that was asked for.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from urllib.parse import urlsplit

from rha.scenario import Check
from rha.watch.base import NoAnswer, Via

MAX_BODY_BYTES = 1 << 20
OK = 200


def attempt(check: Check, timeout: float, via: Via | None = None) -> float:
    """Seconds until the answer was there. `via`: host and port that is connected to instead; the server is still asked
    by its name, and its certificate must bear it. Raises NoAnswer."""
    begun = time.monotonic()
    try:
        status, body = _get(check, timeout, begun + timeout, via)
    except TimeoutError as error:
        raise NoAnswer(f"no answer within {timeout:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise NoAnswer(f"its certificate is refused: {error.verify_message}") from error
    except socket.gaierror as error:
        raise NoAnswer(f"name not found ({error.strerror})") from error
    except OSError as error:
        raise NoAnswer(os.strerror(error.errno).lower() if error.errno else str(error)) from error
    except (http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"what came back is no HTTP: {error!r}") from error
    wanted = check.status or [OK]
    if status not in wanted:
        raise NoAnswer(f"status {status} instead of {' or '.join(map(str, wanted))}")
    if check.contains and check.contains.encode() not in body:
        raise NoAnswer(f"status {status}, but the body does not contain {check.contains!r}")
    return time.monotonic() - begun


def _get(check: Check, timeout: float, until: float, via: Via | None) -> tuple[int, bytes]:
    """Status and body. Each read has what is left of the time: a server that drips must not hold the watch."""
    url = urlsplit(check.address)
    connection = _connection(check, url.hostname or "", url.port, timeout, via)
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", target, headers={"Connection": "close", "User-Agent": "rha"})
        response = connection.getresponse()
        body = b""
        while len(body) < MAX_BODY_BYTES:
            if (left := until - time.monotonic()) <= 0:
                raise TimeoutError
            if connection.sock:
                connection.sock.settimeout(left)
            part = response.read1(65536)
            if not part:
                break
            body += part
        return response.status, body
    finally:
        connection.close()


def _connection(
    check: Check, host: str, port: int | None, timeout: float, via: Via | None
) -> http.client.HTTPConnection:
    context = ssl.create_default_context(cafile=check.ca or None) if check.address.startswith("https:") else None
    connection = (
        http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        if context
        else http.client.HTTPConnection(host, port, timeout=timeout)
    )
    if via:
        raw = socket.create_connection(via, timeout)
        connection.sock = context.wrap_socket(raw, server_hostname=host) if context else raw
    return connection
