"""Spans for OpenTelemetry, if this program uses it. If not, nothing is imported and a span costs nothing.

No span holds a prompt, a key, a path that was sent, or the message of an exception.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["Kind", "inject", "note_answer", "span", "tracing"]

Kind = Literal["INTERNAL", "CLIENT", "SERVER"]

_NOTHING: AbstractContextManager[None] = nullcontext()


def tracing() -> bool:
    """Whether anything in this process has imported OpenTelemetry's API."""
    return "opentelemetry.trace" in sys.modules


def span(
    name: str,
    kind: Kind = "INTERNAL",
    *,
    within: Mapping[str, str] | None = None,
    **attributes: str | int,
) -> AbstractContextManager[Span | None]:
    """A span around the block, below the one that is current.

    ``within`` are the headers of a request that may say to which trace it belongs. Underscores in the names
    of attributes become dots. An exception sets the status and its class.
    """
    if not tracing():
        return _NOTHING
    return _span(name, kind, within, {key.replace("_", "."): value for key, value in attributes.items()})


def inject(headers: MutableMapping[str, str]) -> None:
    """Adds what tells the receiver of a request to which trace it belongs (W3C ``traceparent``)."""
    if tracing():
        from opentelemetry import propagate

        propagate.inject(headers)


def note_answer(current: Span | None, status: int, code: str | None = None) -> None:
    """Adds the status of an answer, and the code of its error."""
    if current is None:
        return
    from opentelemetry import trace

    current.set_attribute("http.response.status_code", status)
    if code is not None:
        current.set_attribute("error.type", code)
    if status >= 500:
        current.set_status(trace.StatusCode.ERROR)


@contextmanager
def _span(
    name: str, kind: Kind, within: Mapping[str, str] | None, attributes: dict[str, Any]
) -> Iterator[Span]:
    from opentelemetry import propagate, trace

    context = None if within is None else propagate.extract(within)
    with trace.get_tracer("blossom_async").start_as_current_span(
        name,
        context,
        trace.SpanKind[kind],
        attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as exc:
            current.set_attribute("error.type", type(exc).__qualname__)
            current.set_status(trace.StatusCode.ERROR)
            raise
