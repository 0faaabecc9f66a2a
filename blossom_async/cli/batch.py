"""``blossom batch``: a file of prompts becomes pictures behind URLs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from blossom_async.cli.options import (
    PICTURE,
    URL,
    gateway_options,
    help_settings,
    opened_client,
    picture_options,
    picture_settings,
)
from blossom_async.cli.words import CannotStart, duration, plural, say, stdout_checked
from blossom_async.errors import BlossomError, ConfigurationError, JournalMismatch, Unauthenticated

if TYPE_CHECKING:
    from blossom_async.cli.gallery import Gallery
    from blossom_async.cli.prompts import Entry, PromptFile
    from blossom_async.cli.results import JsonLines, Result
    from blossom_async.cli.thumbs import Thumbs

__all__ = ["batch"]

_FORMATS = ("txt", "csv", "tsv", "jsonl")
_STOPPED, _TERMINATED = 130, 143  # 128 and the signal's number, as shells have it
_WINDOW = 1024  # results that wait for an earlier one, at most


@click.command("batch", cls=click.RichCommand, context_settings=help_settings)
@click.argument("prompts", metavar="PROMPTS")
@click.option("--input-format", type=click.Choice(_FORMATS), help="When the file's name does not tell.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N prompts only.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="A line of JSON for each item.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where finished items are kept; beside --out unless said.",
)
@click.option("--no-journal", is_flag=True, help="Keep none: the same command begins anew.")
@click.option(
    "--gallery", type=click.Path(path_type=Path), metavar="FILE", help="One HTML page with all pictures."
)
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each item on stdout, no table.")
@click.option("--all", "all_rows", is_flag=True, help="Every row in the table.")
@click.option(
    "--max-concurrency",
    type=click.IntRange(min=1),
    default=64,
    metavar="N",
    help="Calls under way at once; 64 unless said.",
)
@click.option(
    "--rate-limit", multiple=True, metavar="N/TIME", help="Such as 600/min or 10/s; may be repeated."
)
@click.option(
    "--max-cost", type=click.FloatRange(min=0), metavar="CREDITS", help="Stop before more is spent."
)
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and make nothing.")
@gateway_options
@picture_options
@click.option_panel(
    "Files",
    options=[
        "--input-format",
        "--limit",
        "--out",
        "--journal",
        "--no-journal",
        "--gallery",
        "--json",
        "--all",
    ],
)
@click.option_panel(
    "Gateway",
    options=[
        "--max-cost",
        "--dry-run",
        "--max-concurrency",
        "--rate-limit",
        "--base-url",
        "--api-key-file",
        "--timeout",
    ],
)
@click.option_panel("Picture", options=PICTURE)
@click.option_panel("Its URL", options=URL)
def batch(prompts: str, **given: Any) -> int:
    """Make a picture of every prompt in PROMPTS and print its URL.

    PROMPTS is a file, or - for standard input:

    \b
    .txt         a prompt a line; # begins a comment
    .csv, .tsv   a column "prompt"; columns named as options are each item's own
    .jsonl       an object of options a line, or a string

    With --out or --journal a run that was stopped goes on where it was: give the same command again. What
    is finished is not made a second time.

    A line that cannot be used fails alone. Exit status: 0 all done, 1 some items failed, 2 nothing could
    start, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    from blossom_async.batch.gate import rate_limits
    from blossom_async.cli.prompts import PromptFile

    for name in ("out", "gallery"):
        if given[name] == Path("-"):
            raise CannotStart(f"--{name} -: that is no file; use --json for standard output")
    settings = picture_settings(given)
    try:
        limits = rate_limits(given["rate_limit"])
    except ValueError as exc:
        raise CannotStart(f"--rate-limit: {exc}") from exc
    with PromptFile(prompts, given["input_format"]) as source:
        if given["dry_run"]:
            from blossom_async.cli.estimate import estimate

            return estimate(source, dict(settings), given)
        run = {"rate_limit": limits, "journal": _journal(given), "max_cost": given["max_cost"]}
        return _Batch(source, {**settings, **run}, given).status()


def _journal(given: dict[str, Any]) -> Path | None:
    """Where the run keeps what is finished: beside ``--out``, unless that is no file or it was said."""
    journal: Path | None = given["journal"]
    out: Path | None = given["out"]
    if given["no_journal"]:
        if journal is not None:
            raise CannotStart("--journal and --no-journal: only one of them can be meant")
        return None
    if journal is None and out is not None and (out.is_file() or not out.exists()):
        return out.with_name(f"{out.name}.journal")
    return journal


class _Batch:
    """One run of the command: its source, and all the places its results go to."""

    def __init__(self, source: PromptFile, settings: dict[str, Any], given: dict[str, Any]) -> None:
        from rich.console import Console

        from blossom_async.cli.results import InTurn, Shown, Tally

        self._source = source
        self._settings = settings
        self._given = given
        self._limit: int | None = given["limit"]
        self._stderr = Console(stderr=True)
        self._tally = Tally()
        self._turn = InTurn(max(_WINDOW, 4 * given["max_concurrency"]))
        self._shown = Shown(all_rows=given["all_rows"])
        self._note = ""
        self._out: JsonLines | None = None
        self._gallery: Gallery | None = None

    def status(self) -> int:
        """Makes the pictures, says what became of them, and gives the exit status."""
        from blossom_async.cli.loop import Terminated, run

        failure: Exception | None = None
        stopped = 0
        try:
            self._open_files()
            try:
                run(self._make())
            except KeyboardInterrupt:
                stopped = _STOPPED
            except Terminated:
                stopped = _TERMINATED
            except (BlossomError, CannotStart) as exc:
                failure = self._advised(exc)
            if failure is not None and not self._tally.done:
                raise failure
            self._report(ended=not stopped and failure is None)
        finally:
            self._close_files()
        if failure is not None:
            raise failure
        if stopped:
            return stopped
        return 1 if self._tally.failed else 0

    def _advised(self, failure: Exception) -> Exception:
        """The failure. With what to do, when another batch's journal was found beside ``--out``."""
        if not isinstance(failure, JournalMismatch) or self._given["journal"] is not None:
            return failure
        advised = CannotStart(f"{failure}; choose another --out, or --no-journal to begin anew")
        advised.__cause__ = failure
        return advised

    def _open_files(self) -> None:
        """Finds out before any picture is made whether its results can be written."""
        from blossom_async.cli.gallery import Gallery
        from blossom_async.cli.results import JsonLines

        out, page, journal = self._given["out"], self._given["gallery"], self._settings["journal"]
        taken: dict[Path, str] = {}
        for name, path in (("--out", out), ("--gallery", page), ("--journal", journal)):
            if path is None:
                continue
            if self._source.is_same(path):
                raise CannotStart(f"{name} {path}: that is the file with the prompts")
            if (first := taken.setdefault(_resolved(path, name), name)) != name:
                raise CannotStart(f"{name} {path}: that is the file of {first}")
        if page is not None:
            self._gallery = Gallery(page)
        if out is not None:
            self._out = JsonLines(out)

    def _close_files(self) -> None:
        if self._out is not None:
            self._out.close()
        if self._gallery is not None:
            self._gallery.close()

    async def _make(self) -> None:
        import asyncio

        from blossom_async.cli.loop import terminable
        from blossom_async.cli.serve import own_gateway
        from blossom_async.transport import http_session

        with terminable():
            entries = self._source.entries(self._limit, say)
            first = await anext(entries, None)
            if first is None:
                raise ConfigurationError(f"{self._source.name}: there is no prompt in it")
            async with (
                http_session(self._given["timeout"]) as session,
                opened_client(self._given, session, max_concurrency=self._given["max_concurrency"]) as client,
            ):
                base_url = str(client.base_url)
                self._note = own_gateway(base_url)
                try:
                    await self._stream(client, session, base_url, self._in_turn(first, entries))
                except asyncio.CancelledError:
                    say("stopping; a second time does not wait for pictures under way")
                    raise

    async def _in_turn(self, first: Entry, rest: AsyncIterator[Entry]) -> AsyncIterator[Entry]:
        """The entries, each when not too many results wait for an earlier one."""
        yield first
        index = 0
        async for entry in rest:
            index += 1
            await self._turn.room(index)
            yield entry

    async def _stream(self, client: Any, session: Any, base_url: str, entries: AsyncIterator[Entry]) -> None:
        import asyncio
        from contextlib import AsyncExitStack

        from blossom_async.batch import Progress
        from blossom_async.cli.thumbs import Thumbs

        clock = asyncio.get_running_loop().time
        started = clock()
        ended = 0
        outcomes: AsyncIterator[Any] | None = None
        async with AsyncExitStack() as opened:
            show = self._bar(opened)

            def progressed(now: Progress) -> None:
                nonlocal ended
                ended = now.done + now.failed + now.not_run
                show(now)

            thumbs = None
            if self._gallery is not None:
                thumbs = await opened.enter_async_context(Thumbs(self._gallery, session, base_url))
            try:
                async with client.image.stream_urls(
                    entries, on_progress=progressed, **self._settings
                ) as outcomes:
                    async for outcome in outcomes:
                        self._receive(outcome)
                        if isinstance(outcome.error, Unauthenticated) and not self._turn.any_done:
                            raise outcome.error  # the others would hear the same
                        await self._write_ready(thumbs)
            except (asyncio.CancelledError, BlossomError):
                while outcomes is not None and self._turn.received < ended:
                    self._receive(await anext(outcomes))  # it has come already: this does not wait
                self._write_early(thumbs)
                raise
            finally:
                self._tally.elapsed_s = clock() - started
        self._tally.elapsed_s = clock() - started

    def _receive(self, outcome: Any) -> None:
        from blossom_async.cli.results import Result

        self._turn.add(Result.of(outcome, Path(self._source.name).name))

    async def _write_ready(self, thumbs: Thumbs | None) -> None:
        while (result := self._turn.pop()) is not None:
            self._write(result)
            if thumbs is not None:
                await thumbs.add(result)

    def _write_early(self, thumbs: Thumbs | None) -> None:
        """Writes what has come out of turn, once nothing more will."""
        if not self._turn.any_done:
            return
        for result in self._turn.pop_early():
            self._write(result)
            if thumbs is not None:
                thumbs.add_without(result)

    def _bar(self, opened: Any) -> Any:
        """What to call with each new standing: a bar's update when a person looks at stderr."""
        if not self._stderr.is_terminal:
            return lambda _: None
        from blossom_async.cli.bar import bar

        self._tally.total = self._source.count(self._limit)
        return opened.enter_context(bar(self._stderr, self._tally.total))

    def _write(self, result: Result) -> None:
        from blossom_async.cli.results import json_stdout

        if self._out is not None:
            self._out.add(result)
        self._tally.add(result)
        if self._given["as_json"]:
            json_stdout(result)
        else:
            self._shown.add(result)

    def _report(self, *, ended: bool) -> None:
        from rich.console import Console

        try:
            if not self._given["as_json"]:
                with stdout_checked():
                    self._shown.write(Console(soft_wrap=False))
        finally:
            self._summarise(ended=ended)

    def _summarise(self, *, ended: bool) -> None:
        tally, journal = self._tally, self._settings["journal"]
        sentence = tally.sentence(ended=ended)
        say(sentence if ended else f"stopped: {sentence}")
        if tally.reused:
            say(f"{plural(tally.reused, 'picture')} of these had been finished before: {journal}")
        if journal is not None and not ended:
            say("the same command goes on from here")
        elif journal is not None and tally.failed:
            say("the same command tries the failed ones again")
        if self._note and tally.done:
            say(self._note)
        if self._gallery is not None and (tally.done or tally.failed):
            self._finish_page(ended=ended)

    def _finish_page(self, *, ended: bool) -> None:
        from datetime import UTC, datetime

        assert self._gallery is not None  # noqa: S101 - for the type checker
        tally = self._tally
        made = (
            f"{tally.done:,} of {tally.done + tally.failed:,}" if ended else f"{tally.done:,}, then stopped"
        )
        facts = [("Pictures", made), ("Time", duration(tally.elapsed_s))]
        if tally.reused:
            facts.insert(1, ("Made before", f"{tally.reused:,}"))
        if tally.per_second:
            facts.append(("Pace", f"{tally.per_second:.1f}/s"))
        facts.append(("Credits", f"{tally.credits:,}"))
        title, source = plural(tally.done, "picture"), Path(self._source.name).name
        self._gallery.finish(title, source, facts, self._note, datetime.now(UTC))
        say(f"gallery: {self._given['gallery']}")


def _resolved(path: Path, name: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as exc:  # before Python 3.13 a loop of links is the latter
        reason = getattr(exc, "strerror", None) or "a loop of symbolic links"
        raise CannotStart(f"{name} {path}: {reason}") from exc
