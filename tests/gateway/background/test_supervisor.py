"""Background jobs: started, watched and ended in one place."""

from __future__ import annotations

import asyncio

import pytest

from blossom_async.gateway.background.supervisor import Supervisor


async def test_a_job_runs_until_the_block_is_left() -> None:
    """On leaving, jobs are cancelled and have ended."""
    ended = []

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("job")

    async with Supervisor() as jobs:
        jobs.start("waiting", job)
        await asyncio.sleep(0)
    assert ended == ["job"]


async def test_a_job_that_fails_is_logged_and_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the job and has the traceback."""
    runs = 0
    again = asyncio.Event()

    async def job() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("the first run fails")
        again.set()

    async with Supervisor(restart_s=0) as jobs:
        jobs.start("sweeping", job)
        await again.wait()
    assert runs == 2
    assert "the job 'sweeping' failed; it starts again in 0 s" in caplog.text
    assert "the first run fails" in caplog.text


async def test_a_job_that_returns_is_done() -> None:
    """It is not run again, and leaving does not wait for it."""
    runs = 0

    async def job() -> None:
        nonlocal runs
        runs += 1

    async with Supervisor(restart_s=0) as jobs:
        jobs.start("once", job)
        for _ in range(5):
            await asyncio.sleep(0)
    assert runs == 1
