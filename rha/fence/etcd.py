"""A lease and a key in etcd, by its JSON gateway (etcd 3.4 and later, `/v3/…`, documented in etcd's api_grpc_gateway).

Numbers of 64 bits travel as texts, keys and values as base64. Every question has one time limit over all endpoints:
an answer that comes too late is worth as little as none.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rha.errors import ConfigError, NetworkError

MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True)
class Access:
    """How etcd is reached. `certificate` and `key`: where it wants to know who asks; empty paths: not."""

    endpoints: Sequence[str]
    ca: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Held:
    """A key as it is. `lease`: etcd's number of the lease that it ends with; 0: it stays until it is removed."""

    value: str
    lease: int
    mod_revision: int


class Etcd:
    """One cluster. Raises ConfigError when a file of `access` is unusable; each question NetworkError when no endpoint
    has answered it in time."""

    def __init__(self, access: Access, timeout: float) -> None:
        self._access, self.timeout = access, timeout
        self._context = _context(access) if any(one.startswith("https") for one in access.endpoints) else None
        self._first = 0  # the endpoint that answered last is asked first

    # Leases ---------------------------------------------------------------------------------------------------

    def grant(self, ttl: int) -> tuple[int, float]:
        """A new lease: its number, and for how many seconds etcd has really granted it."""
        answer = self._ask("/v3/lease/grant", {"TTL": str(ttl)})
        return int(answer["ID"]), float(answer["TTL"])

    def keep_alive(self, lease: int) -> float:
        """Counts the lease anew. Returns the seconds granted; 0: it has ended."""
        answer = self._ask("/v3/lease/keepalive", {"ID": str(lease)})
        return float(answer.get("result", {}).get("TTL", 0))

    def revoke(self, lease: int) -> None:
        """Ends a lease and removes its keys; one that has ended already is well."""
        try:
            self._ask("/v3/lease/revoke", {"ID": str(lease)})
        except _Unknown:
            return

    # The key --------------------------------------------------------------------------------------------------

    def read(self, key: str) -> Held | None:
        """The key by the cluster's majority (linearizable); None when it is not there."""
        found = self._ask("/v3/kv/range", {"key": _b64(key)}).get("kvs", [])
        return _held(found[0]) if found else None

    def put_if(self, key: str, value: str, *, lease: int, revision: int) -> Held | None:
        """Sets the key if nobody has changed it since `revision`; 0: if it is not there.

        Returns None when it is set, else what stands there.
        """
        put = {"requestPut": {"key": _b64(key), "value": _b64(value), "lease": str(lease)}}
        return self._if(key, revision, put)

    def delete_if(self, key: str, *, revision: int) -> Held | None:
        """As `put_if`, and removes the key."""
        return self._if(key, revision, {"requestDeleteRange": {"key": _b64(key)}})

    def _if(self, key: str, revision: int, act: dict[str, Any]) -> Held | None:
        compare = {"key": _b64(key), "target": "MOD", "result": "EQUAL", "modRevision": str(revision)}
        look = {"requestRange": {"key": _b64(key)}}
        answer = self._ask("/v3/kv/txn", {"compare": [compare], "success": [act], "failure": [look]})
        if answer.get("succeeded"):
            return None
        found = answer["responses"][0]["response_range"].get("kvs", [])
        return _held(found[0]) if found else Held("", 0, 0)

    # Questions ------------------------------------------------------------------------------------------------

    def _ask(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        until, whys = time.monotonic() + self.timeout, list[str]()
        count = len(self._access.endpoints)
        for turn in range(count):
            number = (self._first + turn) % count
            # One that does not answer must leave time for the others.
            seconds = (until - time.monotonic()) / (count - turn)
            try:
                answer = self._ask_one(self._access.endpoints[number], path, question, max(0.05, seconds))
            except (OSError, http.client.HTTPException, ValueError) as error:
                whys.append(f"{self._access.endpoints[number]}: {error}")
                continue
            self._first = number
            return answer
        raise NetworkError("etcd does not answer", cause="; ".join(whys), hint="etcdctl endpoint health")

    def _ask_one(self, endpoint: str, path: str, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Raises OSError, HTTPException, or ValueError with etcd's own words."""
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port or 2379
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        try:
            connection.request("POST", path, json.dumps(question), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read(MAX_ANSWER_BYTES))
        finally:
            connection.close()
        if response.status != 200:
            words = str(answer.get("error") or answer)
            if response.status == 404:
                raise _Unknown("etcd does not know it", cause=words)
            raise ValueError(f"{words} ({response.status})")
        if not isinstance(answer, dict):
            raise ValueError("its answer is no table")
        return answer


class _Unknown(NetworkError):
    pass


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca or None)
        if access.certificate:
            context.load_cert_chain(access.certificate, access.key)
    except OSError as error:  # ssl.SSLError is one
        files = " ".join(filter(None, (access.ca, access.certificate, access.key)))
        raise ConfigError("the certificates for etcd cannot be used", cause=f"{files}: {error}") from error
    return context


def _held(found: dict[str, Any]) -> Held:
    value = base64.b64decode(found.get("value", "")).decode("utf-8", errors="replace")
    return Held(value, int(found.get("lease", 0)), int(found["mod_revision"]))


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def why_no_access(access: Access) -> str | None:
    """The reason why a file of it cannot be read, or None."""
    for name in filter(None, (access.ca, access.certificate, access.key)):
        if not Path(name).is_file():
            return f"{name} is no file"
    return None
