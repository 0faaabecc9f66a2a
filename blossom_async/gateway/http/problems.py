"""Errors as ``application/problem+json`` (RFC 9457), which no cache stores."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import orjson
from aiohttp import web

from blossom_async.errors import InvalidRequest, ResponseError, ServerFailed

__all__ = [
    "ERROR_CODE",
    "PROBLEM",
    "REQUEST_ID",
    "SERVER",
    "new_request_id",
    "problem",
    "problem_parts",
    "problems",
    "refusal",
]

ERROR_CODE: web.ResponseKey[str] = web.ResponseKey("error_code", str)
"""The code of an answer that is an error."""

REQUEST_ID: ContextVar[str | None] = ContextVar("blossom_request_id", default=None)
"""The id of the request that is being answered, or that started the work."""

SERVER = "blossom"
"""The value of the header ``Server``: without versions."""
_MAX_DETAIL = 500  # characters; it may quote what a caller sent, which may be a megabyte
PROBLEM = "application/problem+json"
"""The media type of errors."""
_REFUSALS = {
    404: ("not_found", "nothing is served under this path; /openapi.json lists what is"),
    405: (
        "method_not_allowed",
        "the path does not allow this method; the Allow header lists those it does",
    ),
    413: ("request_entity_too_large", "the body is too long; send less"),
    416: (
        "requested_range_not_satisfiable",
        "the range starts beyond the end; Content-Range has the length",
    ),
    417: (
        "expectation_failed",
        "the expectation is not supported; send '100-continue' or no Expect header",
    ),
}
_OTHER = "refused", "the request is refused as it is; /openapi.json describes valid ones"
_CLOSING = {
    "request_timeout",
    "incomplete_body",
}  # the rest of the body is not read; the connection is closed

_RANDOM = random.Random()  # noqa: S311 - an id is no secret, and os.urandom() takes ten times as long

_log = logging.getLogger("blossom_async.gateway")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answers what a handler raises, and adds ``X-Request-Id`` and ``Server`` to every answer."""
    request_id = new_request_id()
    REQUEST_ID.set(request_id)
    try:
        response = await handler(request)
    except ResponseError as exc:
        return problem(exc, request_id)
    except InvalidRequest as exc:
        rejected = ResponseError(str(exc), status=422, code="invalid_request", field=exc.field)
        return problem(rejected, request_id)
    except web.HTTPException as exc:  # raised by aiohttp: no such route, wrong method, body too large
        return refusal(exc, request_id)
    except Exception:  # noqa: BLE001 - the task's border: it is logged, and the caller gets the request id
        _log.exception("request %s failed", request_id)
        return problem(ServerFailed("the gateway failed; find the request id in its log"), request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = SERVER
    return response


def new_request_id() -> str:
    """A random id for the answer and the log."""
    return f"{_RANDOM.getrandbits(64):016x}"


def refusal(exc: web.HTTPException, request_id: str) -> web.Response:
    """The answer for an exception of aiohttp."""
    code, detail = _REFUSALS.get(exc.status, _OTHER)
    answer = problem(ResponseError(detail, status=exc.status, code=code), request_id)
    for name in ("Allow", "Content-Range"):
        if name in exc.headers:
            answer.headers[name] = exc.headers[name]
    return answer


def problem(error: ResponseError, request_id: str) -> web.Response:
    """The answer for an error."""
    body, headers = problem_parts(error, request_id)
    answer = web.Response(status=error.status, body=body, content_type=PROBLEM, headers=headers)
    answer[ERROR_CODE] = error.code
    if error.code in _CLOSING:
        answer.force_close()
    return answer


def problem_parts(error: ResponseError, request_id: str) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the answer for an error."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "code": error.code,
        "detail": _shortened(error.detail),
        "request_id": request_id,
    }
    if error.field is not None:
        body["field"] = _shortened(error.field)
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id, "Server": SERVER}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return orjson.dumps(body), headers


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL else f"{text[: _MAX_DETAIL - 3]}..."
