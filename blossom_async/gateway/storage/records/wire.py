"""Connections to PostgreSQL that send many statements in one message, and wait for answers so long only: a
server that is stopped gives none, and closes nothing.
"""

from __future__ import annotations

import itertools
import math
import select
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

__all__ = ["ANSWER_S", "NoAnswer", "Patient", "Sent"]

ANSWER_S = 30.0
"""How long a server may take for an answer: longer than it lets a statement wait for a lock."""

_FAILED = {ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE}

Sent = tuple[str, Sequence[Any]]
"""A statement, and its parameters as text."""

T = TypeVar("T")


class NoAnswer(psycopg.OperationalError):
    """The server has not answered in time, and the connection is closed."""


class Patient(psycopg.Connection[Any]):
    """A connection that is closed where an answer takes longer than ``answer_s``: ``NoAnswer``."""

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

    def exchange(self, parts: Sequence[Sequence[Sent]]) -> list[list[PGresult] | psycopg.Error]:
        """The results of each part, or its first error; they are text. All are sent in one message.

        A part that begins no transaction is one of its own. Of one that fails nothing is left, and those
        behind it are carried out all the same.
        """
        server = self.pgconn
        server.enter_pipeline_mode()
        try:
            fresh = self._prepare({text for part in parts for text, _ in part})
            for part in parts:
                for text, values in part:
                    server.send_query_prepared(self._names[text], list(values))
                server.pipeline_sync()
            results = self._received(len(parts) + bool(fresh))
        except BaseException:
            self.close()  # nobody knows what is still to be read
            raise
        server.exit_pipeline_mode()
        given = [_judged(part) for part in results]
        if fresh and isinstance(error := given.pop(0), psycopg.Error):
            self._names.clear()
            raise error
        if any(isinstance(part, psycopg.errors.InvalidSqlStatementName) for part in given):
            self._names.clear()  # they were deallocated
        return given

    def _prepare(self, texts: Iterable[str]) -> bool:
        """Whether any statement is prepared, apart from all else: an error elsewhere does not prevent it."""
        fresh = [text for text in texts if text not in self._names]
        for text in fresh:
            self._names[text] = b"blossom_%d" % next(self._numbers)
            self.pgconn.send_prepare(self._names[text], text.encode())
        if fresh:
            self.pgconn.pipeline_sync()
        return bool(fresh)

    def _received(self, number: int) -> list[list[PGresult]]:
        """The results up to each of so many ends of parts."""
        server, until = self.pgconn, time.monotonic() + self.answer_s
        parts: list[list[PGresult]] = [[]]
        while server.flush():
            self._wait(select.POLLIN | select.POLLOUT, until)
        while True:
            while server.is_busy():
                self._wait(select.POLLIN, until)
            result = server.get_result()
            if result is None:  # between those of two commands
                if server.status == ConnStatus.BAD:
                    raise psycopg.OperationalError("the connection is lost")
            elif result.status != ExecStatus.PIPELINE_SYNC:
                parts[-1].append(result)
            elif len(parts) == number:
                return parts
            else:
                parts.append([])

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

    def _given_up(self) -> NoAnswer:
        self.close()
        return NoAnswer(f"no answer for {self.answer_s:g} s")


def _judged(results: list[PGresult]) -> list[PGresult] | psycopg.Error:
    failed = next((result for result in results if result.status in _FAILED), None)
    return results if failed is None else error_from_result(failed)


def _polled(socket: int, events: int, timeout_s: float) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(socket, events)
    return poll.poll(None if timeout_s == math.inf else 1000 * timeout_s)
