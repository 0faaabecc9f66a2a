"""The gateway's log: a line for each request, and how ``blossom serve`` writes lines.

All lines go through the standard library's ``logging``, below the logger ``blossom_async.gateway``, which is
silent unless the application has a handler. No line holds a prompt, a key, a signature, or a path that was
sent.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from blossom_async.gateway.http.problems import ERROR_CODE, REQUEST_ID
from blossom_async.tracing import tracing

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

__all__ = ["PROBES", "TENANT", "AccessLines", "configure", "formatter", "is_picture"]

TENANT: web.RequestKey[str] = web.RequestKey("tenant", str)
"""The tenant of the request's API key, once that is known."""

_ROOT = "blossom_async"
_PICTURES = ("/image/", "/generated/")
PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
"""Routes that machines ask again and again."""

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
        """Writes the line of a request, unless such requests are not logged."""
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
    import structlog

    common: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _without_marks,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_request,
        structlog.processors.ExceptionRenderer(_without_messages),
        _without_reprs,
    ]
    shown: Processor = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0, sort_keys=False)
    if form == "json":
        shown = structlog.processors.JSONRenderer(serializer=_json)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=common,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown],
    )


def _is_call(route: str) -> bool:
    return route not in PROBES and not is_picture(route)


def is_picture(route: str) -> bool:
    """Whether pictures are served under this route."""
    return route.startswith(_PICTURES)


def _with_request(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        line.setdefault("request_id", request_id)
    if tracing():
        from opentelemetry import trace

        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            line["trace_id"] = trace.format_trace_id(current.trace_id)
    return line


def _without_marks(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Leaves out what another library gives every record of the process for itself, as Ray does."""
    kept = {"_record", "_from_structlog"}  # structlog's own, until the end
    return {name: value for name, value in line.items() if name in kept or not name.startswith("_")}


def _without_reprs(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """A line of another library: its first one. asyncio shows in the next what a task has raised."""
    if line["logger"].startswith(_ROOT):
        del line["logger"]
    else:
        line["event"] = str(line["event"]).partition("\n")[0]
    return line


def _without_messages(exc_info: ExcInfo) -> str:
    """The traceback of an exception and its causes. Their messages are left out: they may quote a caller."""
    lines: list[str] = []
    exc: BaseException | None = exc_info[1]
    while exc is not None:
        name = f"{type(exc).__module__}.{type(exc).__qualname__}"
        reason = f": {exc.strerror}" if isinstance(exc, OSError) and exc.strerror else ""
        lines[:0] = [*traceback.format_tb(exc.__traceback__), f"{name}{reason}\n"]
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return "".join(lines).rstrip()


def _json(line: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(line, default=str).decode()
