"""Work in threads: bounded, in order, and work already started comes first."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

from blossom_async.gateway.making.workers import Workers


async def test_no_more_run_at_once_than_there_are_threads() -> None:
    """Of ten jobs three run at a time."""
    workers, running, most, lock = Workers(3), 0, 0, threading.Lock()
    together = threading.Barrier(3)

    def job() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(30)
        with lock:
            running -= 1

    await asyncio.gather(*(workers.run(job) for _ in range(9)))
    workers.close()
    assert most == 3


async def test_the_rest_of_something_begun_goes_first() -> None:
    """In the order they came, and then the others in theirs."""
    workers, order, go = Workers(1), list[object](), threading.Event()
    held = asyncio.create_task(workers.run(lambda: go.wait(30)))
    others = [asyncio.create_task(workers.run(partial(order.append, n))) for n in range(3)]
    await asyncio.sleep(0)
    names = ("earlier", "later")
    rest = [asyncio.create_task(workers.run(partial(order.append, n), first=True)) for n in names]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(held, *rest, *others)
    workers.close()
    assert order == ["earlier", "later", 0, 1, 2]


async def test_one_who_no_longer_waits_loses_no_thread() -> None:
    """Cancelled while waiting, or just as its turn came: the next one runs."""
    for late in (False, True):
        workers, go = Workers(1), threading.Event()
        held = asyncio.create_task(workers.run(partial(go.wait, 30)))
        await asyncio.sleep(0)
        gone = asyncio.create_task(workers.run(lambda: None))
        last = asyncio.create_task(workers.run(lambda: "ran"))
        await asyncio.sleep(0)
        if not late:
            gone.cancel()
        go.set()
        await held
        gone.cancel()
        assert await last == "ran"
        assert await workers.run(lambda: "free") == "free"
        workers.close()


async def test_before_the_end_nothing_more_begins() -> None:
    """What waits or comes later is cancelled; what has begun is ended, with all that belongs to it."""
    workers, go = Workers(1), threading.Event()
    held = asyncio.create_task(workers.run(lambda: go.wait(30)))
    waiting = asyncio.create_task(workers.run(lambda: "began"))
    rest = asyncio.create_task(workers.run(lambda: "rest", first=True))
    await asyncio.sleep(0)
    workers.begin_nothing_more()
    late = asyncio.create_task(workers.run(lambda: "late"))
    go.set()
    assert await held
    assert await rest == "rest"
    await asyncio.wait([waiting, late])
    assert waiting.cancelled()
    assert late.cancelled()
    workers.close()


async def test_what_a_job_raises_is_raised() -> None:
    """And its thread is free again."""
    workers = Workers(1)
    for _ in range(2):
        try:
            await workers.run(lambda: 1 / 0)
        except ZeroDivisionError:
            continue
        raise AssertionError
    workers.close()
