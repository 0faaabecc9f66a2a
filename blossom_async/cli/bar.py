"""The progress bar of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from blossom_async.batch import Progress as Standing
from blossom_async.cli.words import duration

__all__ = ["bar"]

_HZ = 10
_WIDE = 22  # below 80 with the texts, or a terminal's ^C would push it to a second line


@contextmanager
def bar(console: Console, total: int | None) -> Iterator[Callable[[Standing], None]]:
    """Shows a bar while the block runs; gives the function to call with each new ``Progress``.

    The bar is drawn ten times a second at most, and disappears afterwards. Pictures from an earlier run
    count as done but not for the pace. In an outage it shows how long the gateway has been away.
    """
    columns = [SpinnerColumn(style="magenta"), BarColumn(_WIDE, complete_style="magenta"), _Count(), _Pace()]
    with Progress(*columns, console=console, transient=True, refresh_per_second=_HZ) as drawn:
        fresh = drawn.add_task("", total=total, visible=False)
        task = drawn.add_task("", total=total, failed=0, fresh=drawn.tasks[0], standing=None)

        def update(standing: Standing) -> None:
            ended = standing.done + standing.failed
            left = None if total is None else total - standing.reused
            drawn.update(fresh, total=left, completed=ended - standing.reused)
            drawn.update(task, completed=ended, failed=standing.failed, standing=standing)

        yield update


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        failed = task.fields["failed"]
        of = f" of {task.total:,.0f}" if task.total is not None else ""
        text = Text(f"{task.completed - failed:,.0f}{of}")
        text.append(f", {failed:,} failed", style="red" if failed else "dim")
        return text


class _Pace(ProgressColumn):
    def render(self, task: Task) -> Text:
        standing: Standing | None = task.fields["standing"]
        if standing is not None and (outage_s := standing.outage_s) is not None:
            return Text(f"waiting for the gateway, {outage_s:.0f} s", style="yellow")
        fresh: Task = task.fields["fresh"]
        if not fresh.speed:
            return Text("")
        left = fresh.time_remaining
        ending = f", {duration(left)} left" if left is not None else ""
        return Text(f"{fresh.speed:.1f}/s{ending}", style="dim")
