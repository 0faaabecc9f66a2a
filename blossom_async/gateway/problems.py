"""Every error of the gateway as ``application/problem+json`` (RFC 9457), never stored by a cache."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from blossom_async.errors import InvalidRequest, ResponseError, ServerFailed

__all__ = ["problems"]

_log = logging.getLogger("blossom_async.gateway")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Gives each exchange a request id and turns what a handler raises into an answer."""
    request_id = secrets.token_hex(8)
    try:
        response = await handler(request)
    except ResponseError as exc:
        return _problem(exc, request_id)
    except InvalidRequest as exc:
        rejected = ResponseError(str(exc), status=422, code="invalid_request", field=exc.field)
        return _problem(rejected, request_id)
    except web.HTTPException as exc:  # aiohttp's own: no such route, wrong method, body too large
        refused = ResponseError(exc.reason, status=exc.status, code=exc.reason.lower().replace(" ", "_"))
        answer = _problem(refused, request_id)
        for name in ("Allow", "Content-Range"):
            if name in exc.headers:
                answer.headers[name] = exc.headers[name]
        return answer
    except Exception:  # noqa: BLE001 - the task's border: it is logged, and the caller learns where to look
        _log.exception("request %s failed", request_id)
        return _problem(ServerFailed("the gateway failed; its log has the request id"), request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    return response


def _problem(error: ResponseError, request_id: str) -> web.Response:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.field is not None:
        body["field"] = error.field
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return web.Response(
        status=error.status,
        body=orjson.dumps(body),
        content_type="application/problem+json",
        headers=headers,
    )
