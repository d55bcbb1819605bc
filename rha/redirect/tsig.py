"""A TSIG key (RFC 8945) from a file as BIND's tsig-keygen writes it."""

from __future__ import annotations

import base64
import binascii
import re
import stat
from pathlib import Path

import dns.name
import dns.tsig

from rha.errors import ConfigError

_MAX_BYTES = 4096
_KEY = re.compile(r'key\s+"?([A-Za-z0-9._-]+)"?\s*\{([^}]*)\}', re.DOTALL)
_FIELD = re.compile(r'(algorithm|secret)\s+"?([^";\s]+)"?\s*;')
_ALGORITHMS = {
    name.to_text(omit_final_dot=True).lower(): name
    for name in (dns.tsig.HMAC_SHA224, dns.tsig.HMAC_SHA256, dns.tsig.HMAC_SHA384, dns.tsig.HMAC_SHA512)
}


def load(path: str) -> dns.tsig.Key:
    """The one key of a file.

    Raises ConfigError when it cannot be read, when others may read it, when it is no key. No message shows its content.
    """
    text = _read(Path(path))
    found = _KEY.search(text)
    fields = dict(_FIELD.findall(found[2])) if found else {}
    if not found or set(fields) != {"algorithm", "secret"}:
        hint = "write it with: tsig-keygen NAME"
        raise ConfigError(f"{path} is no TSIG key", cause='expected key "…" { algorithm …; secret "…"; };', hint=hint)
    algorithm = _ALGORITHMS.get(fields["algorithm"].lower())
    if algorithm is None:  # HMAC-MD5 and HMAC-SHA1: RFC 8945 advises against both
        known = ", ".join(sorted(_ALGORITHMS))
        raise ConfigError(f"{path}: algorithm {fields['algorithm']} is not used", cause=f"one of {known} is")
    try:
        secret = base64.b64decode(fields["secret"], validate=True)
    except binascii.Error as error:
        raise ConfigError(f"{path} is no TSIG key", cause="the secret is not base64") from error
    return dns.tsig.Key(dns.name.from_text(found[1]), secret, algorithm)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"TSIG key {path} cannot be read", cause=error.strerror or str(error)) from error
    if mode & 0o007:
        raise ConfigError(
            f"TSIG key {path} can be read by everybody", cause=f"mode {mode:04o}", hint=f"chmod 600 {path}"
        )
    return content.decode("ascii", errors="replace")
