"""Oracle C: databases with acknowledged commits. At every cut the database recovers by itself, holds every commit that
was acknowledged before the cut, in order and without holes, and its own checker finds nothing.

A commit is acknowledged on the master before its LSN is looked up (proof/position.py), so at any cut from that LSN on
it has to be there. PostgreSQL runs with its WAL on one disk and its data on another, too: then the order holds across
both disks.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg2

from proof import filesystems
from proof.lab import MIB, Disk, Lab, free_port, run
from proof.oracle_a import Subject, Verdict, differing_end, ordered, recording, setting, walk
from proof.position import Ledger, Position
from proof.replay import Replay
from proof.writers import Writer

KIND = "ext4"
DISK_BYTES = 96 * MIB
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
USER = "postgres"
SETTINGS = (
    "listen_addresses=127.0.0.1",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=8MB",
    "max_connections=10",
    "min_wal_size=32MB",
    "max_wal_size=32MB",
    "checkpoint_timeout=30s",
    "autovacuum_naptime=1s",
)


# SQLite -------------------------------------------------------------------------------------------------------------


class SqliteClient(Writer):
    """Commits numbered rows, deletes old blobs, and notes each commit once `commit` has returned."""

    def __init__(self, file: Path, mode: str, ledger: Ledger, seed: int) -> None:
        super().__init__(pause=0.004, seed=seed)
        self._ledger = ledger
        self._base = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._base.execute(f"PRAGMA journal_mode={mode}")
        # FULL syncs no folder after the journal's removal, which is the commit in mode `delete`: a power cut then takes
        # the last commit back, and at two of ten cuts it did.
        self._base.execute("PRAGMA synchronous=EXTRA")
        self._base.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, noise BLOB)")

    def write(self) -> None:
        noise = self.draw.randbytes(self.draw.choice([20, 200, 9000]))
        self._base.execute("BEGIN")
        self._base.execute("INSERT INTO rows VALUES (?, ?)", (self.count, noise))
        self._base.execute("UPDATE rows SET noise = zeroblob(10) WHERE id = ?", (self.count - 300,))
        self._base.execute("COMMIT")
        self._ledger.note(self.count)

    def close(self) -> None:
        self._base.close()


def sqlite(mode: str, seconds: float, cuts: int, seed: int) -> Verdict:
    """One SQLite database in a journal mode (`wal` or `delete`) on a mounted file system."""
    verdict = Verdict(f"sqlite, {mode}")
    with setting() as (lab, images), ExitStack() as stack:
        disk = made(lab)
        with filesystems.mounted(disk.path, images / "master", filesystems.KINDS[KIND].mount) as point:
            engine = ordered(lab, [disk.path])
            ledger = Ledger(stack.enter_context(Position(engine.name)))
            with SqliteClient(point / "base", mode, ledger, seed):
                time.sleep(seconds)
        assert engine.losses() == {}, engine.losses()
        lab.assert_equal(engine, [disk])
        verdict.writes = len(ledger.entries)

        def judge(cut: int, at: Replay) -> str | None:
            promised = ledger.promised(cut)
            return filesystems.fault(KIND, at.files[0], images, lambda point: sqlite_fault(point / "base", promised))

        end = walk(verdict, recording(lab, engine), cuts, seed, images, judge)
        verdict.failures += differing_end(end, [disk.file])
    return verdict


def sqlite_fault(file: Path, promised: set[int]) -> str | None:
    """What is wrong with a database after a power cut, or None."""
    if not promised and not (file.exists() and file.stat().st_size):
        return None
    base = sqlite3.connect(file)
    try:
        if (found := base.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            return f"integrity_check: {found}"
        return rows_fault([row[0] for row in base.execute("SELECT id FROM rows ORDER BY id")], promised)
    except sqlite3.DatabaseError as error:
        return f"sqlite: {error}" if promised else None
    finally:
        base.close()


def rows_fault(rows: list[int], promised: set[int]) -> str | None:
    """The commits that a recovered table lacks."""
    if missing := promised - set(rows):
        return f"{len(missing)} acknowledged commits are missing, the first is {min(missing)} of {len(promised)}"
    return None if rows == list(range(len(rows))) else "rows are missing below the last one"


# PostgreSQL ---------------------------------------------------------------------------------------------------------


class PostgresClient(Writer):
    """Commits numbered rows into an indexed table, updates and deletes others."""

    def __init__(self, port: int, ledger: Ledger, seed: int) -> None:
        super().__init__(pause=0.002, seed=seed)
        self._ledger = ledger
        self._base = psycopg2.connect(host="127.0.0.1", port=port, user=USER, dbname="postgres")
        with self._base, self._base.cursor() as cursor:
            cursor.execute("CREATE TABLE rows (id bigint PRIMARY KEY, noise text)")
            cursor.execute("CREATE INDEX ON rows (noise)")

    def write(self) -> None:
        noise = self.draw.randbytes(self.draw.choice([10, 100, 900])).hex()
        with self._base, self._base.cursor() as cursor:
            cursor.execute("INSERT INTO rows VALUES (%s, %s)", (self.count, noise))
            old = self.draw.randrange(self.count + 1)
            cursor.execute("UPDATE rows SET noise = 'changed' WHERE id = %s", (old,))
        self._ledger.note(self.count)

    def close(self) -> None:
        self._base.close()


@contextmanager
def postgres(data: Path, log: Path) -> Iterator[int]:
    """A server on a data folder, run by its own user; yields its port. Raises AssertionError when it does not start:
    what it said."""
    port = free_port()
    words = ["-D", str(data), "-p", str(port), "-k", "/tmp", *(word for one in SETTINGS for word in ("-c", one))]
    with log.open("wb") as said:
        server = subprocess.Popen(as_user(POSTGRES[0] / "postgres", *words), stdout=said, stderr=said)
    try:
        wait_until_it_answers(server, port, log)
        yield port
    finally:
        server.terminate()
        server.send_signal(2)  # SIGINT: fast shutdown, clients or not
        server.wait(60)


def as_user(program: Path, *words: str) -> list[str]:
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", str(program), *words]


def wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 60
    words = [str(POSTGRES[0] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(words, check=False).returncode:
        alive = server.poll() is None and time.monotonic() < end
        assert alive, f"PostgreSQL did not start: {log.read_text()[-2000:]}"
        time.sleep(0.02)


def initialise(data: Path, wal: Path | None) -> None:
    """A new cluster, owned by the server's user; with its WAL in another folder where one is given."""
    for folder in (data, wal):
        if folder:
            shutil.chown(folder, USER, USER)
    place = data / "base"
    words = ["-D", str(place), "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C", "--wal-segsize=1"]
    words += ["-X", str(wal / "wal")] if wal else []
    run(*as_user(POSTGRES[0] / "initdb", *words))


def postgresql(disks: int, seconds: float, cuts: int, seed: int) -> Verdict:
    """PostgreSQL on one watched disk, or with its WAL on a second one."""
    verdict = Verdict(f"postgresql, {disks} disks" if disks > 1 else "postgresql")
    with setting() as (lab, images), ExitStack() as stack:
        images.chmod(0o755)
        mine = [made(lab) for _ in range(disks)]
        options = filesystems.KINDS[KIND].mount
        points = [images / f"pg-{i}" for i in range(disks)]  # the same for every cut: the WAL is found by its path
        with ExitStack() as mounts:
            for disk, point in zip(mine, points, strict=True):
                mounts.enter_context(filesystems.mounted(disk.path, point, options))
            initialise(points[0], points[1] if disks > 1 else None)
            os.sync()
            engine = ordered(lab, [disk.path for disk in mine])
            ledger = Ledger(stack.enter_context(Position(engine.name)))
            with postgres(points[0] / "base", images / "log") as port:
                run(*query(port, "CREATE EXTENSION amcheck"))
                with PostgresClient(port, ledger, seed):
                    time.sleep(seconds)
        assert engine.losses() == {}, engine.losses()
        lab.assert_equal(engine, mine)
        verdict.writes = len(ledger.entries)
        judge = _PostgresJudge(images, points, ledger)
        end = walk(verdict, recording(lab, engine), cuts, seed, images, judge.why)
        verdict.failures += differing_end(end, [disk.file for disk in mine])
    return verdict


def query(port: int, sql: str) -> list[str]:
    words = ["psql", "-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", "postgres"]
    return [*words, "-v", "ON_ERROR_STOP=1", "-c", sql]


class _PostgresJudge:
    """Starts a server on copies of the images at a cut, mounted where the master had its disks."""

    def __init__(self, folder: Path, points: list[Path], ledger: Ledger) -> None:
        self._folder, self._points, self._ledger = folder, points, ledger

    def why(self, cut: int, at: Replay) -> str | None:
        with ExitStack() as stack:
            try:
                for i, (file, point) in enumerate(zip(at.files, self._points, strict=True)):
                    copy = stack.enter_context(filesystems.copy_of(file, self._folder / f"copy-{i}.raw"))
                    stack.enter_context(filesystems.opened(KIND, copy, point))
                return self._look(self._ledger.promised(cut))
            except AssertionError as error:
                return str(error)

    def _look(self, promised: set[int]) -> str | None:
        with postgres(self._points[0] / "base", self._folder / "log") as port:
            if run(*query(port, "SELECT count(*) FROM pg_tables WHERE tablename = 'rows'")) == "0":
                return f"the table is missing, {len(promised)} commits were acknowledged" if promised else None
            found = run(*query(port, "SELECT id FROM rows ORDER BY id")).split()
            if why := rows_fault([int(word) for word in found], promised):
                return why
            words = ["pg_amcheck", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", "postgres", "--heapallindexed"]
            done = subprocess.run(
                [str(POSTGRES[0] / words[0]), *words[1:]], capture_output=True, text=True, check=False
            )
            return f"pg_amcheck: {done.stdout}{done.stderr}"[:2000] if done.returncode else None


def made(lab: Lab) -> Disk:
    """A disk with a new file system."""
    disk = lab.disk(DISK_BYTES)
    run(*filesystems.KINDS[KIND].mkfs, disk.path)
    return disk


def subjects(cuts: int, seed: int) -> list[Subject]:
    """All databases, sharing about so many cuts."""
    parts: list[tuple[str, Callable[[int], Verdict]]] = [
        ("sqlite, wal", lambda n: sqlite("wal", 8, n, seed)),
        ("sqlite, delete", lambda n: sqlite("delete", 8, n, seed + 1)),
        ("postgresql", lambda n: postgresql(1, 15, n, seed + 2)),
        ("postgresql, 2 disks", lambda n: postgresql(2, 15, n, seed + 3)),
    ]
    return [Subject(name, -(-cuts // len(parts)), act) for name, act in parts]
