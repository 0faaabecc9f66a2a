"""Connections to PostgreSQL that send many statements in one message, and wait for answers so long only: a
server that is stopped gives none, and closes nothing.
"""

from __future__ import annotations

import itertools
import math
import select
import time
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus

__all__ = ["ANSWER_S", "Patient"]

ANSWER_S = 30.0
"""How long a server may take for an answer: longer than it lets a statement wait for a lock."""

_FAILED = {ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE}

T = TypeVar("T")


class Patient(psycopg.Connection[Any]):
    """A connection that is closed where an answer takes longer than ``answer_s``: ``OperationalError``."""

    answer_s = ANSWER_S

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._names: dict[str, bytes] = {}  # of the statements that the server has prepared
        self._numbers = itertools.count()

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **named: Any) -> T:
        """As for any connection."""
        return super().wait(self._bounded(gen), *args, **named)

    def has_news(self) -> bool:
        """Whether the server has sent something unasked, such as that it ends the connection."""
        return bool(_polled(self.pgconn.socket, select.POLLIN, 0.0))

    def exchange(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The result of each statement, as text. All are sent together, with their parameters as text.

        Raises the error of the first that fails; those behind it are not carried out.
        """
        server = self.pgconn
        server.enter_pipeline_mode()
        try:
            fresh = self._send(statements)
            results = self._received()
        except BaseException:
            self.close()  # nobody knows what is still to be read
            raise
        server.exit_pipeline_mode()
        given = []
        for text, result in zip(fresh, results, strict=True):
            if result.status in _FAILED:
                error = error_from_result(result)
                if isinstance(error, psycopg.errors.InvalidSqlStatementName):  # they were deallocated
                    self._names.clear()
                raise error
            if text is None:
                given.append(result)
            else:
                self._names[text] = self._sent[text]
        return given

    def _send(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[str | None]:
        """For each command that it queues, the text that it prepares; None for those that are carried out."""
        server, self._sent = self.pgconn, dict[str, bytes]()
        commands: list[str | None] = []
        for text, values in statements:
            name = self._names.get(text) or self._sent.get(text)
            if name is None:
                name = self._sent[text] = b"blossom_%d" % next(self._numbers)
                server.send_prepare(name, text.encode())
                commands.append(text)
            server.send_query_prepared(name, list(values))
            commands.append(None)
        server.pipeline_sync()
        return commands

    def _received(self) -> list[Any]:
        server, until = self.pgconn, time.monotonic() + self.answer_s
        results: list[Any] = []
        while server.flush():
            self._wait(select.POLLIN | select.POLLOUT, until)
        while True:
            while server.is_busy():
                self._wait(select.POLLIN, until)
            result = server.get_result()
            if result is None:  # between those of two commands
                if server.status == ConnStatus.BAD:
                    raise psycopg.OperationalError("the connection is lost")
            elif result.status == ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)

    def _wait(self, events: int, until: float) -> None:
        left_s = until - time.monotonic()
        if left_s <= 0 or not _polled(self.pgconn.socket, events, left_s):
            raise self._given_up()
        self.pgconn.consume_input()

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        until = time.monotonic() + self.answer_s
        ready = None
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as end:
                result: T = end.value
                return result
            ready = yield wanted
            if not ready and time.monotonic() > until:
                raise self._given_up()

    def _given_up(self) -> psycopg.OperationalError:
        self.close()
        return psycopg.OperationalError(f"no answer for {self.answer_s:g} s")


def _polled(socket: int, events: int, timeout_s: float) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(socket, events)
    return poll.poll(None if timeout_s == math.inf else 1000 * timeout_s)
