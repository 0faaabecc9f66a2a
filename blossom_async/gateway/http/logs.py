"""The gateway's log: a line for each request, and how ``blossom serve`` writes lines.

All lines go through the standard library's ``logging``, below the logger ``blossom_async.gateway``, which is
silent unless the application has a handler. No line holds a prompt, a key, a signature, or a path that was
sent.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from blossom_async.gateway.http.problems import ERROR_CODE, REQUEST_ID
from blossom_async.tracing import tracing

__all__ = ["TENANT", "AccessLines", "configure", "formatter"]

TENANT: web.RequestKey[str] = web.RequestKey("tenant", str)
"""The tenant of the request's API key, once that is known."""

_ROOT = "blossom_async"
_PICTURES = ("/image/", "/generated/")
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
_OF_EVERY_RECORD = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))
_NEEDS_QUOTES = re.compile(r"[\s=\"']")

_log = logging.getLogger(f"{_ROOT}.gateway.access")
logging.getLogger(f"{_ROOT}.gateway").addHandler(logging.NullHandler())  # else warnings would go to stderr


class AccessLines:
    """Writes the lines of answered requests: ``all``, ``calls`` or ``none``.

    ``calls`` leaves out pictures that are served, and probes.
    """

    def __init__(self, which: str) -> None:
        self._all = which == "all"
        self._calls = which == "calls"

    def write(
        self, request: web.BaseRequest, response: web.StreamResponse, route: str, seconds: float
    ) -> None:
        """Writes the line of a request, if it is wanted."""
        if not (self._all or (self._calls and (response.status >= 400 or _is_call(route)))):
            return
        if _log.isEnabledFor(logging.INFO):
            told = {
                "request_id": response.headers.get("X-Request-Id"),
                "tenant": request.get(TENANT),
                "method": request.method,
                "route": route,
                "status": response.status,
                "code": response.get(ERROR_CODE),
                "ms": round(seconds * 1000, 3),
                "bytes": response.body_length,
            }
            _log.info("request", extra=told)


def configure(form: str, level: str) -> None:
    """Has this process write its log to stderr: as ``text`` or ``json``, from ``level`` up.

    Of other libraries only warnings and errors are written.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(form, colours=sys.stderr.isatty()))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(_ROOT).setLevel(level.upper())


def formatter(form: str, *, colours: bool = False) -> logging.Formatter:
    """Lines as ``text`` for people, or as ``json``. Exceptions are shown without their messages."""
    return _Json() if form == "json" else _Text(colours=colours)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"event": _event(record), "level": record.levelname.lower(), **_told(record)}
        line["timestamp"] = _time(record)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _without_messages(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


class _Text(logging.Formatter):
    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        dim, bold, end = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colours else ("", "", "")
        self._head = f"{dim}{{}}{end} [{bold}{{:<9}}{end}] {bold}{{}}{end}"
        self._pair = f" {dim}{{}}={end}{{}}"

    def format(self, record: logging.LogRecord) -> str:
        parts = [self._head.format(_time(record), record.levelname.lower(), _event(record))]
        for name, value in _told(record).items():
            text = str(value)
            parts.append(self._pair.format(name, repr(text) if _NEEDS_QUOTES.search(text) else text))
        if record.exc_info and record.exc_info[1] is not None:
            parts.append(f"\n{_without_messages(record.exc_info[1])}")
        return "".join(parts)


def _time(record: logging.LogRecord) -> str:
    return f"{datetime.fromtimestamp(record.created, UTC).isoformat(timespec='microseconds')[:-6]}Z"


def _event(record: logging.LogRecord) -> str:
    """What happened. Of another library only the first line: asyncio shows in the next what a task raised."""
    event = record.getMessage()
    return event if record.name.startswith(_ROOT) else event.partition("\n")[0]


def _told(record: logging.LogRecord) -> dict[str, Any]:
    """The logger, if it is another library's, and what came as ``extra``, with the request and the trace."""
    # Another library may give every record of the process names of its own, as Ray does.
    own = {
        name: value
        for name, value in vars(record).items()
        if name not in _OF_EVERY_RECORD and not name.startswith("_")
    }
    told = own if record.name.startswith(_ROOT) else {"logger": record.name, **own}
    request_id = REQUEST_ID.get()
    if request_id is not None:
        told.setdefault("request_id", request_id)
    if tracing():
        from opentelemetry import trace

        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            told["trace_id"] = trace.format_trace_id(current.trace_id)
    return told


def _is_call(route: str) -> bool:
    return route not in _PROBES and not route.startswith(_PICTURES)


def _without_messages(raised: BaseException) -> str:
    """The traceback of an exception and its causes. Their messages are left out: they may quote a caller."""
    lines: list[str] = []
    exc: BaseException | None = raised
    while exc is not None:
        name = f"{type(exc).__module__}.{type(exc).__qualname__}"
        reason = f": {exc.strerror}" if isinstance(exc, OSError) and exc.strerror else ""
        lines[:0] = [*traceback.format_tb(exc.__traceback__), f"{name}{reason}\n"]
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return "".join(lines).rstrip()
