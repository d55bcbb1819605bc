"""A quiesced bookmark of a master with a real database: judged by the database's own tools, on the image there."""

from __future__ import annotations

import re
import subprocess
from functools import partial

import pytest

from proof.lab import MIB, RHA, Engine, Lab, environment, run, wait_for
from tests.app.databases import POSTGRESQL, Mariadb, Postgresql, Server

pytestmark = pytest.mark.root


class Site:
    """A master whose disk holds a database, and the command line of its appliance."""

    def __init__(self, lab: Lab, kind: type[Server]) -> None:
        self.lab = lab
        lab.folder.chmod(0o755)
        self.disk = lab.disk(600 * MIB)
        self.mnt = lab.mount(self.disk.path, "ext4")
        self.sockets = lab.folder / "sockets"
        self.server = kind(self.mnt / "db", self.sockets)
        self.server.create()
        self.server.start()
        lab.stack.callback(self.server.stop)
        self.engine = self._protect()

    def _protect(self) -> Engine:
        name = type(self.server).__name__.lower()
        app = f'[[quiesce.app]]\nkind = "{name}"\naddress = "{self.server.address}"\nlimit = "2min"\n'
        engine = self.lab.engine([self.disk.path], more=f"[quiesce]\n{app}")
        self.lab.appliance.start()
        engine.start()
        engine.wait_ordered()
        report = partial(self.lab.appliance.report, engine.name)
        wait_for(lambda: report().get("window"), 180, report)
        return engine

    def rha(self, *words: object) -> str:
        variables = environment(self.lab.folder / "run")
        done = subprocess.run([*RHA, *map(str, words)], env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr, self.engine.log()[-2000:])
        return done.stdout

    def at(self, bookmark: str) -> Server:
        """The database as it is at that point, not started."""
        file = self.lab.memory / f"{self.engine.name}-{bookmark}.raw"
        self.lab.stack.callback(file.unlink, missing_ok=True)
        self.rha("export", self.engine.name, file, "--format", "raw", "--at", bookmark)
        point = self.lab.folder / bookmark
        point.mkdir()
        run("mount", "-o", "loop", file, point)
        self.lab.stack.callback(subprocess.run, ["umount", str(point)], check=False)
        server = type(self.server)(point / "db", self.lab.folder / f"sockets-{bookmark}")
        self.lab.stack.callback(server.stop)
        return server


def replayed(server: Server) -> list[str]:
    """What PostgreSQL would replay: WAL records from the redo location of its last checkpoint on, by their kind."""
    data = str(server.folder / "data")
    control = subprocess.check_output([str(POSTGRESQL / "pg_controldata"), data], text=True, env={"LC_ALL": "C"})
    found = re.search(r"REDO location: +(\S+)", control)
    assert found, control
    words = [str(POSTGRESQL / "pg_waldump"), "-p", f"{data}/pg_wal", "-s", found[1]]
    dump = subprocess.run(words, capture_output=True, text=True, check=False)  # fails at the end of the WAL
    return re.findall(r"desc: (\w+)", dump.stdout)


def test_postgresql_has_nothing_to_replay(lab: Lab) -> None:
    site = Site(lab, Postgresql)
    site.server.ask("CREATE TABLE orders AS SELECT generate_series(1, 50000) AS id")
    site.rha("bookmark", site.engine.name, "cut")
    said = site.rha("bookmark", site.engine.name, "clean", "--quiesce")
    assert f"quiesced (PostgreSQL: checkpoint; {site.mnt}: frozen)" in said
    assert "INSERT" in replayed(site.at("cut")), "there was nothing to be checkpointed"
    server = site.at("clean")
    assert replayed(server) == ["RUNNING_XACTS", "CHECKPOINT_ONLINE"]
    (server.folder / "data/postmaster.pid").unlink()  # its process runs, on the master, which is this host
    server.start()
    assert server.ask("SELECT count(*) FROM orders") == [(50000,)]


def test_mariadb_has_its_tables_closed(lab: Lab) -> None:
    """Aria says of each table whether it was closed. InnoDB says nothing of the kind: it starts from its own log."""
    site = Site(lab, Mariadb)
    site.server.ask("CREATE DATABASE shop")
    for engine in ("Aria", "InnoDB"):
        site.server.ask(f"CREATE TABLE shop.{engine} (id INT PRIMARY KEY) ENGINE={engine}")
        site.server.ask(f"INSERT INTO shop.{engine} SELECT seq FROM mysql.seq_1_to_20000")
    run("sync", "-f", site.mnt)
    site.rha("bookmark", site.engine.name, "cut")
    said = site.rha("bookmark", site.engine.name, "clean", "--quiesce")
    assert f"quiesced (MariaDB: tables flushed and locked; {site.mnt}: frozen)" in said
    assert is_open(site.at("cut")), "the table was not in use"
    server = site.at("clean")
    assert not is_open(server)
    server.start()
    for engine in ("Aria", "InnoDB"):
        assert server.ask(f"SELECT count(*) FROM shop.{engine}") == [(20000,)]
        assert [row[3] for row in server.ask(f"CHECK TABLE shop.{engine} EXTENDED")] == ["OK"]


def is_open(server: Server) -> bool:
    """Does the Aria table say that somebody has not closed it?"""
    data = server.folder / "data"
    words = ["aria_chk", "--check", f"--logdir={data}", str(data / "shop/Aria")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return "hasn't closed the table properly" in done.stdout + done.stderr
