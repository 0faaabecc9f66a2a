"""A waiting line: by priority, then in the order of arrival, and no turn lost to a cancelled waiter."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Line"]


class Line:
    """Waiters for turns that somebody else grants.

    Priority 0 goes first, then 1, up to ``priorities - 1``; within one priority first come, first served.
    ``give_back`` takes back the turn of a waiter that was cancelled after the turn was granted and before it
    could be used: give it to the next one there, or keep it. ``waiting`` is the number of waiters, as is
    ``len()``; one that was cancelled in this pass of the event loop may still be counted.
    """

    def __init__(self, give_back: Callable[[], object], *, priorities: int = 1) -> None:
        self.waiting = 0
        self._give_back = give_back
        self._queues: list[OrderedDict[asyncio.Future[None], None]] = [
            OrderedDict() for _ in range(priorities)
        ]

    def __len__(self) -> int:
        return self.waiting

    async def wait(self, priority: int = 0) -> None:
        """Returns when a turn is granted. Raises ``CancelledError`` also when the line is dismissed."""
        turn = asyncio.get_running_loop().create_future()
        queue = self._queues[priority]
        queue[turn] = None
        self.waiting += 1
        try:
            await turn
        except BaseException:
            if turn in queue:
                del queue[turn]
                self.waiting -= 1
            elif not turn.cancelled():
                self._give_back()
            raise

    def grant(self) -> bool:
        """Gives a turn to the first in line; False when nobody waits."""
        for queue in self._queues:
            while queue:
                turn, _ = queue.popitem(last=False)
                self.waiting -= 1
                if not turn.done():
                    turn.set_result(None)
                    return True
        return False

    def dismiss(self, priority: int = 0) -> None:
        """Cancels all who wait with this priority or a later one."""
        for queue in self._queues[priority:]:
            self.waiting -= len(queue)
            while queue:
                queue.popitem()[0].cancel()
