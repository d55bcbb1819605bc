"""PostgreSQL: a checkpoint, immediately before the file systems are frozen.

It holds nothing. A point of all its disks at one moment is what PostgreSQL recovers from by itself, from its last
checkpoint on (https://www.postgresql.org/docs/current/backup-file.html: consistent snapshots). After this one that
is only what was written between the checkpoint and the freeze: nothing, on an idle server.
Rejected: pg_backup_start and pg_backup_stop. They are for copies that take a while; the point would need a backup_label
that is not on the disk, and an archive, to start at all.
"""

from __future__ import annotations

from typing import Any

from rha.app.base import App, Where
from rha.errors import HostError, StateError
from rha.redirect.base import Deadline
from rha.scenario import QuiescePostgresql

DEFAULT_USER = "postgres"


class Postgresql(App):
    def __init__(self, table: QuiescePostgresql, where: Where) -> None:
        self._address = table.address

    def hold(self, deadline: Deadline) -> str:
        """Without a limit of its own: the holder's ends it. A checkpoint that was begun goes on, which harms nobody."""
        try:
            import psycopg2
        except ImportError as error:
            raise HostError("psycopg2 is not installed here", hint="apt install python3-psycopg2") from error
        connection: Any = None
        try:
            connection = psycopg2.connect(self._address, application_name="rha")
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("CHECKPOINT")
        except psycopg2.Error as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            hint = "its role must be a superuser or a member of pg_checkpoint"
            raise StateError("PostgreSQL made no checkpoint", cause=cause, hint=hint) from error
        finally:
            if connection is not None:
                connection.close()
        return "PostgreSQL: checkpoint"

    def let_go(self, deadline: Deadline) -> None:
        """Nothing was held."""
