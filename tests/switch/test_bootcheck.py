"""What is asked of the guest, through forwards to real servers, on a console, by an agent."""

from __future__ import annotations

import base64
import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rha.errors import StateError, VmError
from rha.scenario import BootCheck, Duration, Forward, Network
from rha.switch import bootcheck
from rha.switch.bootcheck import Guest
from rha.vm.base import VmSpec
from rha.vm.null import NullHost

NAME = "rha-web.test"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootcheck, "POLL_SECONDS", 0.02)


@contextmanager
def web_server() -> Iterator[tuple[int, list[str]]]:
    """Its port, and the names that it was asked by."""
    hosts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ready")

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_port, hosts
        server.shutdown()


class OneGuest(NullHost):
    """Runs. `says`: on its console; `established`: does the guest take what the forward has accepted?"""

    def __init__(self, says: str = "", *, established: bool = True) -> None:
        super().__init__()
        self.says, self.established = says, established
        place = Path("/nonexistent")
        self.define(
            VmSpec(
                name=NAME,
                scenario="web",
                memory=1,
                cpus=1,
                firmware="bios",
                bus="virtio",
                accelerator="tcg",
                disks=(),
                backing=(),
                network=Network(),
                folder=place,
                store=place,
            )
        )
        self.start(NAME)

    def console(self, name: str, *, tail_bytes: int = 2000) -> str:
        return self.says

    def is_forward_established(self, name: str, guest_port: int) -> bool:
        return self.established


def guest(vm: NullHost, *forwards: Forward, **words: Any) -> Guest:
    return Guest(vm, NAME, forwards, time.monotonic() + 60, **words)


def check(kind: str, address: str = "", within: float = 0.2, **words: Any) -> BootCheck:
    return BootCheck(kind=kind, address=address, within=Duration(within), timeout=Duration(1), **words)  # type: ignore[arg-type]


def test_http_is_asked_by_its_name_through_the_forward() -> None:
    with web_server() as (port, hosts):
        asked = guest(OneGuest(), Forward(host_port=port, guest_port=8080))
        answer = asked.ask(check("http", "http://www.example:8080/health", 10, contains="ready"))
        assert answer.answered, answer.why
        assert hosts == ["www.example:8080"]
        assert re.fullmatch(r"http port 8080: answered after [\d.]+ m?s", answer.why)
        assert "does not contain 'up'" in asked.ask(check("http", "http://x:8080/", contains="up")).why


def test_a_forward_that_accepts_is_not_a_guest_that_answers() -> None:
    with web_server() as (port, _):
        forward = Forward(host_port=port, guest_port=22)
        assert guest(OneGuest(), forward).ask(check("tcp", "web.example:22", 10)).answered
        silent = guest(OneGuest(established=False), forward).ask(check("tcp", "web.example:22"))
        assert "the guest does not accept connections on port 22" in silent.why


def test_a_port_that_is_not_forwarded() -> None:
    assert "names no port that is forwarded" in guest(OneGuest()).ask(check("tcp", "web.example:22")).why


def test_console() -> None:
    vm = OneGuest("boot\r\nweb1 login: ")
    assert guest(vm).ask(check("console", r"^web\d login:")).answered
    late = threading.Timer(0.3, lambda: setattr(vm, "says", "Reached target"))
    late.start()
    assert guest(vm).ask(check("console", "target$", 20)).answered, "it is asked until it is so"
    late.join()
    assert guest(vm).ask(check("console", "never")).why.startswith("console 'never': its serial console has not")


def test_agent() -> None:
    vm = OneGuest()
    assert "does not answer" in guest(vm).ask(check("agent")).why
    vm.agent["guest-ping"] = {}
    assert guest(vm).ask(check("agent")).answered


def test_units_inside() -> None:
    vm = OneGuest()
    vm.agent |= {"guest-exec": {"pid": 7}, "guest-exec-status": {"exited": True, "exitcode": 0}}
    assert guest(vm).ask(check("unit", "nginx.service")).answered
    said = base64.b64encode(b"inactive\n").decode()
    vm.agent["guest-exec-status"] = {"exited": True, "exitcode": 3, "out-data": said}
    assert "systemd says it is inactive" in guest(vm).ask(check("unit", "nginx.service")).why
    vm.agent["guest-exec-status"] = {"exited": False}
    assert "did not answer within 1 s" in guest(vm).ask(check("unit", "nginx.service", 1.2)).why


@pytest.mark.root
def test_scripts_know_what_is_tested(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir(mode=0o755)
    program = folder / "look"
    program.write_text(
        '#!/bin/sh\n[ "$RHA_ACT" = test ] && [ "$RHA_PORT_22" = 127.0.0.1:40022 ] && exit 0\nenv\nexit 1\n'
    )
    program.chmod(0o755)
    words = {"RHA_ACT": "test", "RHA_PORT_22": "127.0.0.1:40022"}
    asked = guest(OneGuest(), scripts=folder, words=words)
    answer = asked.ask(check("script", "look", 10, user="root"))
    assert answer.answered, answer.why
    assert "scripts/missing cannot be run" in guest(OneGuest(), scripts=folder).ask(check("script", "missing")).why


def test_a_guest_that_stops_is_not_asked_for_long() -> None:
    vm = OneGuest()
    vm.destroy(NAME)
    with pytest.raises(VmError, match="is off: the guest has stopped by itself"):
        guest(vm).ask(check("console", "x", 600))


def test_a_test_that_is_to_end() -> None:
    with pytest.raises(StateError, match="a failover begins"):
        guest(OneGuest(), ended=lambda: "a failover begins").ask(check("console", "x", 600))


def test_the_tests_own_limit_goes_before_a_checks() -> None:
    asked = Guest(OneGuest(), NAME, (), time.monotonic() + 0.1)
    assert not asked.ask(check("console", "x", 600)).answered
