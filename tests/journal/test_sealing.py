import errno
import os
import shutil
from pathlib import Path

import pytest

from proof import journal as independent
from rha.errors import ConfigError, StorageError
from rha.journal import segment
from rha.journal.keys import read_key, read_keyring
from rha.journal.sealing import KeyMissing, Keyring, make_key
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType

SECRETS = [bytes([number]) * 32 for number in (1, 2)]
OLD, NEW = map(make_key, SECRETS)
MARKER = b"a text that nobody may find on the disk "
SEALED_BYTES = 72 + 64 * len(MARKER) + 44


def frame(number: int) -> list[bytes]:
    payload = MARKER * 64
    return [frames.encode(FrameType.RECORDS, payload, lsn=number, seq=number), payload]


def opened(folder: Path, new=OLD, old=(), segment_bytes=8 * SEALED_BYTES) -> Journal:
    return Journal.open(folder, segment_bytes=segment_bytes, keys=Keyring(new, old))


def fill(journal: Journal, numbers) -> None:
    for number in numbers:
        journal.append(frame(number))


def numbers(journal: Journal, start: int = 0) -> list[int]:
    return [entry.header.seq for entry in journal.read(start)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def nonces(path: Path) -> list[bytes]:
    """Those of all frames of an encrypted segment, payload lengths being alike."""
    content = path.read_bytes()
    first = 72 + int.from_bytes(content[12:16], "little")
    return [content[at : at + 12] for at in range(first, len(content), SEALED_BYTES)]


def test_content_is_read_back_and_not_to_be_found(tmp_path):
    with opened(tmp_path) as journal:
        fill(journal, range(20))
        journal.sync()
        assert numbers(journal) == list(range(20))
        assert [place.header.lsn for place in journal.scan(0)] == list(range(20))
        places = list(journal.scan(0))
        assert bytes(places[13].entry().payload) == MARKER * 64
    assert len(files(tmp_path)) > 2
    assert all(MARKER not in path.read_bytes() for path in files(tmp_path))
    with opened(tmp_path) as again:
        assert (numbers(again), again.cut_bytes) == (list(range(20)), 0)


def test_independent_reader_finds_the_same_frames(tmp_path):
    with opened(tmp_path) as journal:
        fill(journal, range(20))
        journal.sync()
        ours = [(entry.position, bytes(entry.payload), entry.next_position) for entry in journal.read(0)]
    theirs = list(independent.frames(tmp_path, keys=SECRETS))
    assert [(each.position, bytes(each.payload), each.next_position) for each in theirs] == ours
    with pytest.raises(independent.BadJournal, match=OLD.id):
        list(independent.frames(tmp_path, keys=SECRETS[1:]))


@pytest.mark.parametrize("keys", [Keyring(), Keyring(NEW)])
def test_missing_key_is_named_and_nothing_is_cut(tmp_path, keys):
    with opened(tmp_path) as journal:
        fill(journal, range(3))
    before = files(tmp_path)[0].read_bytes()
    with pytest.raises(KeyMissing, match="the key of an encrypted file is missing") as refused:
        Journal.open(tmp_path, keys=keys)
    assert OLD.id in refused.value.cause
    assert files(tmp_path)[0].read_bytes() == before


def test_key_of_an_older_segment_is_missed_at_opening(tmp_path):
    with opened(tmp_path) as journal:
        fill(journal, range(3))
    with opened(tmp_path, NEW, [OLD]) as journal:
        fill(journal, range(3, 5))
    with pytest.raises(KeyMissing):
        opened(tmp_path, NEW)


def test_new_key_from_the_next_segment_on_and_back_to_none(tmp_path):
    for new, old in [(None, []), (OLD, []), (NEW, [OLD]), (None, [NEW, OLD])]:
        with opened(tmp_path, new, old) as journal:
            count = len(numbers(journal))
            fill(journal, range(count, count + 3))
            journal.sync()
            assert numbers(journal) == list(range(count + 3))
    content = [path.read_bytes() for path in files(tmp_path)]
    assert [MARKER in each for each in content] == [True, False, False, True]
    assert [key.id.encode() in content[number] for key, number in ((OLD, 1), (NEW, 2))] == [True, True]
    assert len(list(independent.frames(tmp_path, keys=SECRETS))) == 12


def test_no_nonce_twice_over_a_torn_end(tmp_path):
    """What a crash tears off is written again at the same place with other content: never with the same nonce."""
    seen: list[bytes] = []
    for _ in range(5):
        with opened(tmp_path) as journal:
            fill(journal, range(5))
        (path,) = files(tmp_path)
        seen += nonces(path)[-5:]
        os.truncate(path, path.stat().st_size - 4 * SEALED_BYTES - 7)
        with (tmp_path / "durable").open("r+b") as mark:  # as it was before: none of the five was synced
            mark.truncate(0)
        (tmp_path / "durable").unlink()
        segment.DurableMark(tmp_path, fresh=True).close()
    assert len(set(seen)) == len(seen) == 25


def test_no_nonce_twice_over_a_full_disk(tmp_path, monkeypatch):
    written = []
    pwrite_all = segment.pwrite_all

    def full(file, parts, offset):
        written.append(bytes(parts[-3]))
        if len(written) == 2:
            pwrite_all(file, [parts[1]], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        pwrite_all(file, parts, offset)

    monkeypatch.setattr(segment, "pwrite_all", full)
    with opened(tmp_path) as journal:
        fill(journal, [0])
        with pytest.raises(StorageError, match="disk is full"):
            journal.append(frame(1))
        fill(journal, [1])
        assert numbers(journal) == [0, 1]
    assert len(set(written)) == 3


def test_head_alone_is_cut_and_written_anew(tmp_path):
    with opened(tmp_path) as journal:
        fill(journal, [0])
    (path,) = files(tmp_path)
    content = path.read_bytes()
    for length in (5, 72, len(content) - SEALED_BYTES, len(content) - 1):
        path.write_bytes(content[:length])
        with opened(tmp_path) as journal:
            assert (journal.end, journal.cut_bytes) == (0, length)
            fill(journal, [7])
            assert numbers(journal) == [7]


@pytest.mark.parametrize("change", ["flip", "swap", "rename"])
def test_altered_file_is_damage(tmp_path, change):
    with opened(tmp_path) as journal:
        fill(journal, range(14))
        journal.sync()
    first, second = files(tmp_path)[:2]
    content = bytearray(first.read_bytes())
    if change == "flip":
        content[-100] ^= 1
    elif change == "swap":
        content[-2 * SEALED_BYTES :] = content[-SEALED_BYTES:] + content[-2 * SEALED_BYTES : -SEALED_BYTES]
    else:
        assert first.stat().st_size == second.stat().st_size
        shutil.copy(second, first)
        content = bytearray(first.read_bytes())
    first.write_bytes(content)
    with opened(tmp_path) as journal, pytest.raises(StorageError, match="journal damaged") as refused:
        numbers(journal)
    assert "does not decrypt" in refused.value.cause


def key_file(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_key_file_and_credential_are_the_same_key(tmp_path, monkeypatch):
    place = key_file(tmp_path / "one", SECRETS[0])
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_key(place) == read_key("credential:one") == OLD
    assert read_keyring("", [place]).new is None


@pytest.mark.parametrize(
    ("content", "mode", "what"), [(b"short", 0o600, "is no key"), (SECRETS[0], 0o604, "open to everyone")]
)
def test_bad_key_files_are_refused(tmp_path, content, mode, what):
    with pytest.raises(ConfigError, match=what) as refused:
        read_key(key_file(tmp_path / "key", content, mode))
    assert refused.value.hint


def test_missing_credentials_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="no credential:one"):
        read_key("credential:one")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no credential:\.\./x"):
        read_key("credential:../x")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key("credential:one")
