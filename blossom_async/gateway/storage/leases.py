"""Which processes are alive that share a server's database: each renews a row of its own, and a row that is
not renewed is removed by the others.

How long a row has stood still is measured by who looks at it, with a clock that is never set. So neither the
time of a machine nor that of the server counts.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import psycopg
import sqlalchemy as sa

from blossom_async.errors import in_one_line
from blossom_async.gateway.storage.records.inserting import MICRO, SERVER_TIME
from blossom_async.gateway.storage.records.keys import REMOVED
from blossom_async.gateway.storage.records.postgres import Postgres
from blossom_async.gateway.storage.records.store import enough_connections
from blossom_async.gateway.storage.records.tables import owners

__all__ = ["Lease"]

_BEAT_S = 1.0
_LATE_S = 2 * _BEAT_S  # a beat that took longer says that the database is slow, perhaps for all
_EAR_S = 0.2  # how long the end of this process may wait for its thread
_LIFE_S = 5.0  # without a beat for so long, a process counts as dead
_CLOSED = 0  # in the row of a process that has said its end

_log = logging.getLogger("blossom_async.gateway")


class _Pulse:
    """How this process has renewed its row of late."""

    def __init__(self) -> None:
        self.well_since: float | None = None
        self.beaten = 0.0  # when the latest renewal began

    def begin(self, now: float) -> None:
        """The row is new."""
        self.well_since = self.beaten = now

    def beat(self, began: float, now: float) -> None:
        """The row has been renewed."""
        if self.well_since is None or now - self.beaten > _LATE_S:
            self.well_since = now
        self.beaten = began

    def may_judge(self, now: float) -> bool:
        """Whether it has been renewed in time for so long that the database is not slow for all."""
        return (
            self.well_since is not None and now - self.well_since >= _LIFE_S and now - self.beaten <= _LATE_S
        )


class Lease:
    """This process, as the others on the database see it.

    A row is renewed, and never written anew: whoever finds it removed has been taken for dead. It goes on
    under another name, and what it held under the earlier one belongs to those who took it over.
    """

    def __init__(
        self,
        url: str,
        *,
        heard: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``heard`` is called, in a thread, soon after any process has deleted or revoked something."""
        self._database = Postgres(sa.make_url(url))
        self._heard = heard
        self._clock = clock
        self._pulse = _Pulse()
        self._seen: dict[str, tuple[int, float]] = {}  # what each row says, and since when it has said so
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="blossom-lease", daemon=True)
        self.name: str = ""  # until it is open

    def open(self) -> None:
        """Marks this process as alive, until ``close``. Raises as ``enough_connections``."""
        with enough_connections(), self._database.reading.connect():  # for ``has_ended``
            self._begin()
        self._thread.start()

    def close(self) -> None:
        """Lets others take over what this process has not finished."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            with self._database.reading.connect() as connection:
                connection.execute(
                    owners.update().where(owners.c.name == self.name).values(alive_until=_CLOSED)
                )
        except sa.exc.DBAPIError as exc:  # the others find out by themselves
            _log.warning("the end of this process could not be told to the others: %s", _reason(exc))
        self._database.reading.dispose()

    def has_ended(self, name: str) -> bool:
        """Whether the process of that name counts as dead. If so, it stays so: its row is removed.

        While this process renews its own row late, or has begun to only a moment ago, it takes nobody for
        dead: the database may have been away, or slow, for all of them.
        """
        if name == self.name or not self._pulse.may_judge(self._clock()):
            return False
        said, since = self._seen.get(name, (_CLOSED, -math.inf))
        still = said if self._clock() - since >= _LIFE_S else _CLOSED
        try:
            with self._database.reading.connect() as connection:
                dead = owners.delete().where(
                    owners.c.name == name, owners.c.alive_until.in_([still, _CLOSED])
                )
                if connection.execute(dead).rowcount:
                    return True
                row = sa.select(owners.c.name).where(owners.c.name == name)
                return connection.scalar(row) is None
        except sa.exc.DBAPIError:
            return False  # nobody can tell

    def _run(self) -> None:
        logged = ""
        while not self._ending.is_set():
            try:
                self._live()
            except (sa.exc.DBAPIError, psycopg.Error) as exc:
                reason = _reason(exc)
                if self._pulse.well_since is not None or reason != logged:
                    _log.warning("the database cannot be reached: %s", reason)
                logged = reason
                self._pulse.well_since = None
                self._database.reading.dispose()
                self._ending.wait(_BEAT_S)

    def _live(self) -> None:
        """Renews the row and listens, until the end or an error."""
        with self._database.reading.connect() as connection:
            connection.exec_driver_sql(f"LISTEN {REMOVED}")
            self._heard()  # what was said before is missed
            driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
            while not self._ending.is_set():
                if not self._beat(connection):
                    _log.error("this process was taken for dead: others have its calls, and it starts anew")
                    self._begin()
                while not self._ending.is_set() and self._clock() - self._pulse.beaten < _BEAT_S:
                    for _ in driver.notifies(timeout=_EAR_S, stop_after=1):
                        self._heard()

    def _beat(self, connection: sa.Connection) -> bool:
        began = self._clock()
        renewing = owners.update().where(owners.c.name == self.name)
        renewed = connection.execute(renewing.values(alive_until=SERVER_TIME + int(_LIFE_S * MICRO)))
        rows = connection.execute(sa.select(owners)).all()
        now = self._clock()
        known = self._seen
        self._seen = {
            name: known[name] if name in known and known[name][0] == said else (said, now)
            for name, said in rows
        }
        self._pulse.beat(began, now)
        for name, (said, since) in self._seen.items():
            if name != self.name and now - since >= _LIFE_S and self._pulse.may_judge(self._clock()):
                connection.execute(
                    owners.delete().where(owners.c.name == name, owners.c.alive_until.in_([said, _CLOSED]))
                )
        return renewed.rowcount == 1

    def _begin(self) -> None:
        name = secrets.token_hex(8)
        with self._database.reading.connect() as connection:
            alive_until = SERVER_TIME + int(_LIFE_S * MICRO)
            connection.execute(owners.insert().values(name=name, alive_until=alive_until))
        self.name = name
        self._pulse.begin(self._clock())


def _reason(exc: Exception) -> str:
    return in_one_line(exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc)
