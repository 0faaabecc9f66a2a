"""A waiting line: by priority, then in the order of arrival, and no turn lost to a cancelled waiter."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from blossom_async.batch.loops import wake

__all__ = ["Line"]


class Line:
    """Waiters for turns that somebody else grants.

    Priority 0 goes first, then 1, up to ``priorities - 1``; within one priority first come, first served.
    ``give_back`` takes back the turn of a waiter that was cancelled after the turn was granted and before it
    could be used: give it to the next one there, which is what happens without ``give_back``, or keep it.
    ``waiting`` is the number of waiters, as is ``len()``; one that was cancelled in this pass of the event
    loop may still be counted. Waiters may be in several event loops and threads.
    """

    def __init__(self, give_back: Callable[[], object] | None = None, *, priorities: int = 1) -> None:
        self.waiting: int = 0
        self._give_back = give_back or self.grant
        self._queues: list[OrderedDict[asyncio.Future[None], None]] = [
            OrderedDict() for _ in range(priorities)
        ]

    def __len__(self) -> int:
        return self.waiting

    async def wait(self, priority: int = 0) -> None:
        """Returns when a turn is granted. Raises ``CancelledError`` also when the line is dismissed."""
        await self.turn(self.join(priority))

    def join(self, priority: int = 0) -> asyncio.Future[None]:
        """Joins the line. ``turn`` waits for the future; until then a grant can already be made."""
        turn = asyncio.get_running_loop().create_future()
        self._queues[priority][turn] = None
        self.waiting += 1
        return turn

    async def turn(self, turn: asyncio.Future[None]) -> None:
        """Waits as ``wait``, having joined."""
        try:
            await turn
        except BaseException:
            for queue in self._queues:
                if turn in queue:
                    del queue[turn]
                    self.waiting -= 1
                    raise
            if not turn.cancelled():
                self._give_back()
            raise

    def grant(self) -> bool:
        """Gives a turn to the first in line, in whichever event loop; False when nobody waits."""
        for queue in self._queues:
            while queue:
                try:
                    turn, _ = queue.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
                self.waiting -= 1
                if wake(turn, self._give_back):
                    return True
        return False

    def grant_all(self) -> None:
        """Gives a turn to everyone in line."""
        while self.grant():
            pass

    def forget_closed_loops(self) -> None:
        """Removes waiters whose event loop was closed while they waited."""
        for queue in self._queues:
            for turn in [turn for turn in tuple(queue) if turn.get_loop().is_closed()]:
                if queue.pop(turn, turn) is None:  # else another thread was faster
                    self.waiting -= 1
                    wake(turn, self._give_back)

    def dismiss(self, priority: int = 0) -> None:
        """Cancels all who wait with this priority or a later one."""
        for queue in self._queues[priority:]:
            self.waiting -= len(queue)
            while queue:
                queue.popitem()[0].cancel()
