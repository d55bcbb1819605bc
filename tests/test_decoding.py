import msgspec
import pytest

from rha.decoding import NotReadable, from_json
from rha.wire.messages import Ack, Answer, DiskHello, Heartbeat

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", Ack),
        (b'{"id": 1, "value": ' + DEEP + b"}", Answer),
        (b'{"id": 1, "value": "\xff"}', Answer),
        (b'{"name": "d0", "bytes": -512}', DiskHello),
        (b'{"name": "d0", "bytes": ' + b"9" * 40 + b"}", DiskHello),
        (b'{"time": 1e999, "captured_lsn": 1}', Heartbeat),
    ],
    ids=["empty", "deep", "no UTF-8", "negative", "long number", "infinite"],
)
def test_whatever_it_is_it_is_one_refusal(raw: bytes, kind: type) -> None:
    with pytest.raises(NotReadable):
        from_json(raw, kind)


def test_what_is_right_is_read() -> None:
    assert from_json(b'{"name": "d0", "bytes": 512}', DiskHello) == DiskHello(name="d0", bytes=512)
    assert issubclass(NotReadable, msgspec.MsgspecError)  # who catches that, catches this
