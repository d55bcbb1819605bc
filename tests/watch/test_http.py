"""HTTP checks against a real nginx, with and without TLS."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.setting import free_ports
from rha import pki
from rha.scenario import Check, Duration
from rha.watch import http, tcp
from rha.watch.base import NoAnswer
from tests.redirect.wires import eventually

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx")
CONFIG = """\
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {certificate}; ssl_certificate_key {key};
        location = /health {{ return 200 "ready to serve"; }}
        location = /busy {{ return 503 "not ready"; }}
        location = /moved {{ return 302 /health; }}
    }}
}}
"""


class Site:
    def __init__(self, plain: int, tls: int, ca: Path) -> None:
        self.plain, self.tls, self.ca = f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{tls}", str(ca)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")
    pair, ca = None, pki.init(folder / "pki", "test").certificate
    pair = pki.issue_appliance(folder / "pki", "web", ["127.0.0.1"])
    plain, tls = free_ports(2)
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, plain=plain, tls=tls, certificate=pair.certificate, key=pair.key))
    process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        try:
            tcp.attempt(f"127.0.0.1:{tls}", 1.0)
        except NoAnswer:
            return False
        return True

    try:
        eventually(answers)
        yield Site(plain, tls, ca)
    finally:
        process.kill()
        process.wait()


def attempt(address: str, timeout: float = 5.0, **words: object) -> float:
    return http.attempt(Check(kind="http", address=address, **words), timeout)  # type: ignore[arg-type]


def test_status_and_body(site: Site) -> None:
    assert attempt(f"{site.plain}/health", contains="ready") < 5
    assert attempt(f"{site.plain}/busy", status=[200, 503]) < 5
    assert attempt(f"{site.tls}/health", ca=site.ca, contains="ready") < 5


@pytest.mark.parametrize(
    ("path", "words", "why"),
    [
        ("/busy", {}, "status 503 instead of 200"),
        ("/moved", {}, "status 302 instead of 200"),
        ("/none", {"status": [200, 204]}, "status 404 instead of 200 or 204"),
        ("/health", {"contains": "fine"}, "status 200, but the body does not contain 'fine'"),
    ],
)
def test_another_answer_is_none(site: Site, path: str, words: dict[str, object], why: str) -> None:
    with pytest.raises(NoAnswer) as error:
        attempt(site.plain + path, **words)
    assert str(error.value) == why


def test_a_certificate_of_a_stranger(site: Site) -> None:
    with pytest.raises(NoAnswer, match="its certificate is refused: "):
        attempt(f"{site.tls}/health")


def test_no_http_at_all(site: Site) -> None:
    with pytest.raises(NoAnswer):
        attempt(site.plain.replace("http:", "https:") + "/health")


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
            attempt(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.2)


def test_nobody_there() -> None:
    with pytest.raises(NoAnswer, match="connection refused"):
        attempt(f"http://127.0.0.1:{free_ports(1)[0]}/", timeout=Duration(1))


def test_connected_to_elsewhere_it_is_asked_by_its_name(site: Site) -> None:
    """As through a forward: another port answers, and the certificate must still bear the name in the address."""
    nobody, via = free_ports(1)[0], ("127.0.0.1", int(site.tls.rpartition(":")[2]))
    right = Check(kind="http", address=f"https://127.0.0.1:{nobody}/health", ca=site.ca)
    assert http.attempt(right, 5.0, via) < 5
    with pytest.raises(NoAnswer, match="its certificate is refused: Hostname mismatch"):
        http.attempt(Check(kind="http", address="https://www.example/health", ca=site.ca), 5.0, via)
