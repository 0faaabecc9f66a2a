"""Makes the pictures of a batch: prompts in, results to their outputs, in the order of the prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from blossom_async.batch import Outcome, Progress
from blossom_async.cli.bar import bar
from blossom_async.cli.loop import terminable
from blossom_async.cli.options import opened_client
from blossom_async.cli.outputs import Outputs
from blossom_async.cli.prompts.entry import Entry
from blossom_async.cli.prompts.file import PromptFile
from blossom_async.cli.results import InTurn, Result
from blossom_async.cli.saving import Saving
from blossom_async.cli.serve import own_gateway
from blossom_async.cli.thumbs import Thumbs
from blossom_async.cli.words import say
from blossom_async.client import BlossomClient
from blossom_async.errors import BlossomError, ConfigurationError, Unauthenticated
from blossom_async.transport import http_session

__all__ = ["Making"]

_WINDOW = 1024  # the most results that wait for an earlier one


class Making:
    """One run over a prompt file. ``note``, set once a gateway is open, says how its URLs keep working."""

    def __init__(
        self, source: PromptFile, outputs: Outputs, settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> None:
        self._source = source
        self._outputs = outputs
        self._settings = settings
        self._given = given
        self._limit: int | None = given["limit"]
        self._turn = InTurn(max(_WINDOW, 4 * given["max_concurrency"]))
        self.note: str = ""
        self._saving: Saving | None = None

    @property
    def not_saved(self) -> int:
        """Pictures that could not be downloaded."""
        return 0 if self._saving is None else self._saving.failed

    async def run(self) -> None:
        """Makes the pictures. If it is cancelled or fails, it first writes every result that has arrived.

        Raises ``ConfigurationError`` for a file without prompts, and as ``Images.stream_urls``.
        """
        with terminable():
            entries = self._source.entries(self._limit, say)
            first = await anext(entries, None)
            if first is None:
                raise ConfigurationError(
                    f"{self._source.name}: there is no prompt in it; allowed: at least one"
                )
            concurrency: int = self._given["max_concurrency"]
            async with (
                http_session(self._given["timeout"]) as session,
                opened_client(self._given, session, max_concurrency=concurrency) as client,
            ):
                self.note = own_gateway(str(client.base_url))
                try:
                    await self._stream(client, session, self._in_turn(first, entries))
                except asyncio.CancelledError:
                    say("stopping once the pictures in flight have ended; press Ctrl-C again to stop at once")
                    raise

    async def _in_turn(self, first: Entry, rest: AsyncIterator[Entry]) -> AsyncIterator[Entry]:
        """The entries, each held back while too many results wait for an earlier one."""
        yield first
        index = 0
        async for entry in rest:
            index += 1
            await self._turn.room(index)
            yield entry

    async def _stream(
        self, client: BlossomClient, session: aiohttp.ClientSession, entries: AsyncIterator[Entry]
    ) -> None:
        ended = 0
        outcomes: AsyncIterator[Outcome[Any, Any]] | None = None
        async with AsyncExitStack() as opened:
            opened.enter_context(self._timed())
            show = self._bar(opened)

            def progressed(now: Progress) -> None:
                nonlocal ended
                ended = now.done + now.failed + now.not_run
                show(now)

            thumbs = None
            if self._outputs.gallery is not None:
                drawn = Thumbs(self._outputs.gallery, session, str(client.base_url))
                thumbs = await opened.enter_async_context(drawn)
            if (folder := self._given["download"]) is not None:
                self._saving = await opened.enter_async_context(Saving(client, folder))
            try:
                async with client.image.stream_urls(
                    entries, on_progress=progressed, **self._settings
                ) as outcomes:
                    async for outcome in outcomes:
                        self._receive(outcome)
                        if isinstance(outcome.error, Unauthenticated) and not self._turn.any_done:
                            raise outcome.error  # every other item would be answered the same
                        await self._write_ready(thumbs)
            except (asyncio.CancelledError, BlossomError):
                while outcomes is not None and self._turn.received < ended:
                    self._receive(await anext(outcomes))  # it has arrived already, so this does not wait
                self._write_early(thumbs)
                raise

    @contextmanager
    def _timed(self) -> Iterator[None]:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            yield
        finally:
            self._outputs.tally.elapsed_s = clock() - started

    def _receive(self, outcome: Outcome[Any, Any]) -> None:
        self._turn.add(Result.of(outcome, Path(self._source.name).name))

    async def _write_ready(self, thumbs: Thumbs | None) -> None:
        while (result := self._turn.pop()) is not None:
            self._outputs.add(result)
            if thumbs is not None:
                await thumbs.add(result)
            if self._saving is not None:
                await self._saving.add(result)

    def _write_early(self, thumbs: Thumbs | None) -> None:
        """Writes the results that arrived out of order, once no more will arrive."""
        if not self._turn.any_done:
            return
        for result in self._turn.pop_early():
            self._outputs.add(result)
            if thumbs is not None:
                thumbs.add_without(result)

    def _bar(self, opened: AsyncExitStack) -> Callable[[Progress], None]:
        """The function to call with each ``Progress``: it updates a bar if stderr is a terminal."""
        stderr = Console(stderr=True)
        if not stderr.is_terminal:
            return lambda _: None
        self._outputs.tally.total = self._source.count(self._limit)
        return opened.enter_context(bar(stderr, self._outputs.tally.total))
