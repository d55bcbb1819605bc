from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rha.control import local
from rha.errors import Exit, HostError, NetworkError, RhaError, StorageError


def refuse() -> None:
    raise StorageError("journal damaged", cause="checksum", hint="rha status")


@contextlib.contextmanager
def raw_server(path: Path, answer: bytes | None) -> Iterator[None]:
    """Takes one request and answers these bytes; None: never answers."""
    release = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                release.wait(10) if answer is None else peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        release.set()
        thread.join()


def test_question_and_answer(tmp_path: Path) -> None:
    path = tmp_path / "run" / "engine-web.sock"
    with local.serve(path, {"add": lambda a, b: a + b}):
        assert local.call(path, "add", a=1, b=2) == 3
        assert local.sockets(tmp_path / "run") == [path]
    assert not path.exists()


def test_only_the_owner_may_open_it(tmp_path: Path) -> None:
    with local.serve(tmp_path / "a.sock", {}):
        assert (tmp_path / "a.sock").stat().st_mode & 0o777 == 0o600


def test_refusal_arrives_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with local.serve(path, {"refuse": refuse}), pytest.raises(RhaError) as refused:
        local.call(path, "refuse")
    assert refused.value.lines() == ["error: journal damaged", "cause: checksum", "hint: rha status"]
    assert refused.value.code is Exit.STORAGE


@pytest.mark.parametrize(("verb", "words"), [("none", {}), ("add", {"a": 1}), ("add", {"a": 1, "b": 2, "c": 3})])
def test_unknown_request(tmp_path: Path, verb: str, words: dict[str, int]) -> None:
    path = tmp_path / "a.sock"
    with local.serve(path, {"add": lambda a, b: a + b}), pytest.raises(RhaError, match="does not know") as refused:
        local.call(path, verb, **words)
    assert refused.value.code is Exit.USAGE


def test_second_daemon_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with local.serve(path, {"who": lambda: "first"}):
        with pytest.raises(NetworkError, match="is taken"), local.serve(path, {}):
            pass
        assert local.call(path, "who") == "first"


def test_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NetworkError, match="no daemon answers"):
        local.call(path, "who")
    with local.serve(path, {"who": lambda: "second"}):
        assert local.call(path, "who") == "second"


def test_daemon_that_hangs(tmp_path: Path) -> None:
    with raw_server(tmp_path / "a.sock", None), pytest.raises(NetworkError, match="no answer") as refused:
        local.call(tmp_path / "a.sock", "status", timeout=0.1)
    assert refused.value.code is Exit.UNKNOWN


def test_daemon_that_hangs_up_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    with raw_server(tmp_path / "a.sock", b""), pytest.raises(NetworkError, match="hung up") as refused:
        local.call(tmp_path / "a.sock", "failover", timeout=5)
    assert refused.value.code is Exit.UNKNOWN


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_other_users_are_told_that_they_may_not_ask(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    with local.serve(tmp_path / "a.sock", {}):
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                local.call(tmp_path / "a.sock", "status")
            except HostError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
