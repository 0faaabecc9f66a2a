"""Threads that answer the questions of event loops in groups."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from blossom_async.gateway.storage.forks import Home

__all__ = ["Desk"]

_GROUP = 500  # at most so many questions at once, to keep transactions short and SELECTs bounded
_CROWD = 6  # so many questions in two groups: what a group costs is then worth sharing


@attrs.define(eq=False)
class _Ticket:
    question: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Desk:
    """Threads that take all queued questions, answer them together, and wake each event loop once.

    ``gather`` waits while a crowd's questions are gathered, before they are answered; few do not wait.
    ``answer`` takes the questions and returns their answers in the same order. An exception among the answers
    is raised where its question was asked. The threads are daemons: they never keep the interpreter from
    exiting.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        answer: Callable[[Sequence[Any]], list[Any]],
        *,
        gather: Callable[[], None] | None = None,
    ) -> None:
        self._answer = answer
        self._gather = gather
        self._queue: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # no ticket may be queued behind the end marks
        self._open = False
        self._home = Home()
        self._name = name
        self._size = threads
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._home = Home()
        self._open = True
        # Made here: Python 3.13 starts no thread in a forked process that was made before the fork.
        self._threads = [
            threading.Thread(target=self._work, name=self._name, daemon=True) for _ in range(self._size)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Answers everything asked before, then ends the threads. A second call does nothing."""
        if not self._home.is_here:
            return
        with self._lock:
            if not self._open:
                return
            self._open = False
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()

    async def ask(self, question: Any) -> Any:
        self._home.check("the records")
        loop = asyncio.get_running_loop()
        ticket = _Ticket(question, loop.create_future(), loop)
        with self._lock:
            if not self._open:
                raise RuntimeError("the records are not open")
            self._queue.put(ticket)
        return await ticket.future

    def _work(self) -> None:
        more, before = True, 0
        while more:
            tickets: list[_Ticket] = []
            more = self._take(tickets)
            if self._gather is not None and more and before + len(tickets) >= _CROWD:
                self._gather()
                more = self._take(tickets)
            before = len(tickets)
            if tickets:
                try:
                    answers = self._answer([ticket.question for ticket in tickets])
                except Exception as exc:  # noqa: BLE001 - the thread goes on; the callers get the exception
                    answers = [exc] * len(tickets)
                _settle(tickets, answers)

    def _take(self, tickets: list[_Ticket]) -> bool:
        """Adds the queued tickets, waiting for one if there are none; False at the end."""
        with contextlib.suppress(queue.Empty):
            while len(tickets) < _GROUP:
                ticket = self._queue.get(block=not tickets)
                if ticket is None:
                    return False
                tickets.append(ticket)
        return True


def _settle(tickets: Sequence[_Ticket], answers: Sequence[Any]) -> None:
    by_loop = defaultdict(list)
    for ticket, answer in zip(tickets, answers, strict=True):
        by_loop[ticket.loop].append((ticket.future, answer))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, pairs)
        except RuntimeError:  # that loop is closed: nobody waits there
            continue


def _wake(pairs: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in pairs:
        if future.done():  # cancelled while it waited
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
