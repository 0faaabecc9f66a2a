"""How pictures, batches and their progress look in a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

from blossom_async.errors import ConfigurationError

if TYPE_CHECKING:
    from blossom_async.batch import Progress

__all__ = ["Bar", "grid", "picture", "table"]

_SHOWN = 24  # of a long list
_LONG = 200  # characters of a prompt
_HIGH_PX = 160
_EVERY_S = 0.1
_CARD = "display:inline-block;margin:0 .8em .8em 0;max-width:16em;vertical-align:top;overflow-wrap:anywhere"


def picture(url: str, thumbnail: str, caption: str) -> str:
    """A small picture that leads to the whole one, over its caption."""
    caption = _short(caption)
    shown = (
        f'<img src="{escape(thumbnail)}" alt="{escape(caption)}" loading="lazy" '
        f'style="max-height:{_HIGH_PX}px;max-width:100%">'
    )
    return f'<figure style="{_CARD}">{_link(url, shown)}<figcaption>{escape(caption)}</figcaption></figure>'


def grid(said: str, pictures: Iterable[tuple[str, str, str]], number: int) -> str:
    """A line, and the first of ``number`` pictures side by side, each as ``picture`` takes it."""
    shown = "".join(picture(*given) for given in islice(pictures, _SHOWN))
    return f"<div>{escape(said)}</div>{shown}{_more(number)}"


def table(said: str, head: Iterable[str], rows: Iterable[Iterable[str]], number: int) -> str:
    """A line, and the first of ``number`` rows of a table, where what starts as a URL is a link."""
    lines = [_row("th", map(escape, head)), *(_row("td", map(_cell, row)) for row in islice(rows, _SHOWN))]
    return f"<div>{escape(said)}</div><table>{''.join(lines)}</table>{_more(number)}"


def _cell(text: str) -> str:
    short = escape(_short(text))
    return _link(text, short) if text.startswith(("http://", "https://")) else short


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def _link(url: str, inside: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{inside}</a>'


def _row(kind: str, cells: Iterable[str]) -> str:
    return "".join(["<tr>", *(f'<{kind} style="text-align:left">{cell}</{kind}>' for cell in cells), "</tr>"])


def _more(number: int) -> str:
    return f"<div>and {number - _SHOWN:,} more</div>" if number > _SHOWN else ""


class Bar:
    """An ``on_progress`` for notebooks: a bar under the cell, drawn ten times a second at most.

    Make one for each batch. Raises ``ConfigurationError`` where IPython is not installed.
    """

    def __init__(self) -> None:
        try:
            from IPython.display import HTML, display
        except ImportError:
            raise ConfigurationError(
                "Bar: IPython is not installed, so there is no notebook; use another on_progress"
            ) from None
        self._html: Callable[[str], object] = HTML
        self._display: Callable[..., Any] = display
        self._handle: Any = None
        self._drawn = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.running and now < self._drawn + _EVERY_S:
            return
        self._drawn = now
        drawn = self._html(_bar(progress))
        if self._handle is None:
            self._handle = self._display(drawn, display_id=True)
        else:
            self._handle.update(drawn)


def _bar(progress: Progress) -> str:
    ended, total = progress.done + progress.failed + progress.not_run, progress.total
    parts = [f"{progress.done:,}" + (f" of {total:,}" if total is not None else "")]
    if progress.failed:
        parts.append(f"<b>{progress.failed:,} failed</b>")
    if progress.not_run:
        parts.append(f"{progress.not_run:,} not run")
    fresh = progress.done - progress.reused
    if fresh and progress.elapsed_s:
        parts.append(f"{fresh / progress.elapsed_s:,.1f}/s")
    if progress.stopped:
        parts.append(escape(progress.stopped))
    of = f' max="{max(total, 1)}" value="{ended}"' if total is not None else ""
    return f"<progress{of}></progress> {', '.join(parts)}"
