"""What OpenAI's API answers: pictures, events and errors, in its words."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import attrs
from aiohttp import web

from blossom_async.errors import InvalidRequest, ResponseError, ServerFailed
from blossom_async.gateway.calls.packed import AsBase64, Packed
from blossom_async.gateway.http.problems import ERROR_CODE
from blossom_async.gateway.providers import Partial
from blossom_async.gateway.storage.records import ImageRecord
from blossom_async.models import ImageRequest

__all__ = ["Final", "Made", "answered", "completed", "created", "events", "in_their_words", "live", "refused"]

_FINAL_STATUS = 424  # Failed Dependency; clients that look at the status retry 408, 409, 429 and 5xx
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_EVENTS = "text/event-stream"

Made = tuple[list[ImageRecord], list[dict[str, Any]]]
"""Pictures, and what the answer tells of each."""

_log = logging.getLogger("blossom_async.gateway")


class Final(Exception):
    """A failure that must not be retried: the picture was paid for, or may have been."""

    def __init__(self, cause: Exception) -> None:
        if not isinstance(cause, ResponseError):
            cause = ServerFailed("the gateway failed after the picture may have been paid for; see its log")
        super().__init__(cause.code)
        self.error = cause


def answered(body: Mapping[str, Any], status: int = 200) -> web.Response:
    """An answer of JSON, which no cache may keep."""
    return web.Response(
        status=status,
        body=Packed([body]),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def created(records: Sequence[ImageRecord]) -> int:
    """When the newest picture was made, in Unix time."""
    return int(max(record.created_at for record in records).timestamp())


def completed(
    kind: str, records: Sequence[ImageRecord], data: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The data of an event for each picture."""
    return [
        {
            "type": f"{kind}.completed",
            "created_at": created(records),
            "size": f"{record.width}x{record.height}",
            **_told(record.request, record.main_file.format),
            "model": record.model,
            **item,
        }
        for record, item in zip(records, data, strict=True)
    ]


def _told(request: ImageRequest, file_format: str) -> dict[str, str]:
    return {
        "quality": request.quality,
        "background": "transparent" if request.transparency else "opaque",
        "output_format": {"jpg": "jpeg"}.get(file_format, file_format),
    }


def _packed(events: Sequence[Mapping[str, Any]]) -> Packed:
    """Events of one type."""
    return Packed(events, f"event: {events[0]['type']}\ndata: ".encode(), b"\n\n")


def events(made: Sequence[Mapping[str, Any]]) -> web.Response:
    """Server-sent events, when all pictures are made."""
    return web.Response(
        body=_packed(made),
        content_type=_EVENTS,
        headers={"Cache-Control": "no-store"},
    )


async def live(
    http: web.Request,
    making: Coroutine[Any, Any, Made],
    on_the_way: asyncio.Queue[Partial | None],
    kind: str,
    request: ImageRequest,
) -> web.StreamResponse:
    """Events as they come: the pictures on the way, then those that are made, or the error.

    Until the first of them the status is open: if the provider shows none, the answer is that of ``stream``
    alone.
    """
    task = asyncio.create_task(making)
    task.add_done_callback(lambda _: on_the_way.put_nowait(None))
    answer = web.StreamResponse(headers={"Content-Type": _EVENTS, "Cache-Control": "no-store"})
    try:
        while (partial := await on_the_way.get()) is not None:
            if not answer.prepared:
                await answer.prepare(http)
            event = {
                "type": f"{kind}.partial_image",
                "created_at": int(time.time()),
                "size": f"{partial.width}x{partial.height}",
                **_told(request, partial.format),
                "partial_image_index": partial.index,
                "b64_json": AsBase64(partial.data),
            }
            await _write(answer, event)
        if not answer.prepared:
            return events(completed(kind, *await task))
        for event in await _outcome(kind, task):
            await _write(answer, event)
        await answer.write_eof()
    finally:
        task.cancel()
    return answer


async def _outcome(kind: str, task: asyncio.Task[Made]) -> list[dict[str, Any]]:
    """The last events: the pictures, or the error, since the status has been sent."""
    try:
        return completed(kind, *await task)
    except Final as exc:
        error = exc.error
    except ResponseError as exc:
        error = exc
    except Exception:  # noqa: BLE001 - it is answered here, as the middleware would
        _log.exception("a stream failed")
        error = ServerFailed("the gateway failed; its log says why")
    return [{"type": "error", "error": _in_words(error)}]


async def _write(answer: web.StreamResponse, event: Mapping[str, Any]) -> None:
    for piece in _packed([event]).pieces():
        await answer.write(piece)


def in_their_words(route: web.RouteDef) -> web.RouteDef:
    """The route, with errors as OpenAI answers them."""

    async def handler(http: web.Request) -> web.StreamResponse:
        try:
            return await route.handler(http)
        except Final as exc:
            answer = refused(exc.error, _FINAL_STATUS)
            answer.headers["x-should-retry"] = "false"
            return answer
        except ResponseError as exc:
            status = 400 if exc.status == 422 else exc.status
            answer = refused(exc, status)
            if exc.retry_after_s is not None:
                answer.headers["Retry-After"] = str(int(exc.retry_after_s) + 1)
            if status == 401:
                answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        except InvalidRequest as exc:
            wrong = ResponseError(str(exc), status=400, code="invalid_value", field=exc.field)
            return refused(wrong, 400)

    return attrs.evolve(route, handler=handler)


def refused(error: ResponseError, status: int) -> web.Response:
    """An error as OpenAI answers it."""
    answer = answered({"error": _in_words(error)}, status)
    answer[ERROR_CODE] = error.code
    return answer


def _in_words(error: ResponseError) -> dict[str, str | None]:
    usual = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = _KINDS.get(error.status, usual)
    return {"message": error.detail, "type": kind, "param": error.field, "code": error.code}
