"""A real BIND 9 on loopback, in a folder of its own. Asked by `dig`, which shares no code with what is tested."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

ZONE = """\
$TTL 3600
@       SOA ns1 admin 1 3600 600 86400 300
@       NS  ns1
ns1     A   127.0.0.1
www     300 A    192.0.2.10
www     300 AAAA 2001:db8::10
files   CNAME www
other   A   198.51.100.7
"""
_CONFIG = """\
include "{folder}/good.key";
options {{ directory "{folder}"; pid-file "{folder}/named.pid"; session-keyfile "{folder}/session.key";
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; dnssec-validation no;
  notify no; empty-zones-enable no; }};
controls {{ }};
zone "example.org" {{ type primary; file "{folder}/zone"; {rights} }};
"""
KEY = "allow-update { key good; };"
POLICY = "update-policy { grant good name www.example.org. A AAAA; };"
START_SECONDS = 20


def free_port() -> int:
    """A port that is free for TCP and UDP."""
    for _ in range(50):
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def write_key(path: Path, name: str = "good") -> Path:
    """A new secret under a name, by BIND's own tool."""
    path.write_bytes(subprocess.run(["tsig-keygen", name], check=True, capture_output=True).stdout)
    path.chmod(0o600)
    return path


class Named:
    """One server. `key` is the file whose key it accepts."""

    def __init__(self, folder: Path, rights: str = KEY, key: Path | None = None) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.key = folder / "good.key"
        if key:
            self.key.write_bytes(key.read_bytes())
            self.key.chmod(0o600)
        else:
            write_key(self.key)
        (folder / "zone").write_text(ZONE)
        (folder / "named.conf").write_text(_CONFIG.format(folder=folder, port=self.port, rights=rights))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["named", "-f", "-4", "-n", "1", "-c", "named.conf", "-L", "log"]
        self._process = subprocess.Popen(words, cwd=self.folder, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        while not self.dig("example.org", "SOA"):
            is_starting = self._process.poll() is None and time.monotonic() < until
            assert is_starting, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def dig(self, name: str, kind: str = "A") -> list[str]:
        """The answer's records in short form, sorted; empty while it does not answer."""
        return sorted(line for line in self._dig("+short", name, kind).splitlines() if not line.startswith(";"))

    def ttl(self, name: str, kind: str = "A") -> int:
        return int(self._dig("+noall", "+answer", name, kind).split()[1])

    def serial(self) -> int:
        return int(self.dig("example.org", "SOA")[0].split()[2])

    def update(self, *lines: str) -> None:
        """Somebody else's change, by BIND's own nsupdate."""
        script = "\n".join([f"server 127.0.0.1 {self.port}", "zone example.org", *lines, "send", ""])
        words = ["nsupdate", "-k", str(self.key)]
        subprocess.run(words, input=script.encode(), check=True, capture_output=True, timeout=20)

    def _dig(self, *words: str) -> str:
        command = ["dig", "@127.0.0.1", "-p", str(self.port), "+time=1", "+tries=1", "+norecurse", *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20).stdout
