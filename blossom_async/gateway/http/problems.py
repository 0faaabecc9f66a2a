"""Every error of the gateway as ``application/problem+json`` (RFC 9457), never stored by a cache."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from blossom_async.errors import InvalidRequest, ResponseError, ServerFailed

__all__ = ["ERROR_CODE", "PROBLEM", "new_request_id", "problem", "problems", "refusal", "told"]

ERROR_CODE: web.ResponseKey[str] = web.ResponseKey("error_code", str)
"""Of an answer that is a problem: its code."""

_SERVER = "blossom"  # without versions
_MAX_DETAIL = 500  # characters; what a caller named is shown in it, and that may be a megabyte
PROBLEM = "application/problem+json"
"""Media type of every error."""
_REFUSALS = {
    404: ("not_found", "there is nothing under this path; /openapi.json lists the calls"),
    405: ("method_not_allowed", "this path does not take the method; the header Allow names those it takes"),
    413: ("request_entity_too_large", "the body is too long; send less"),
    416: ("requested_range_not_satisfiable", "the range lies beyond the end; Content-Range names the length"),
    417: ("expectation_failed", "the header Expect asks for what no server does; send 100-continue or none"),
}
_OTHER = "refused", "the request cannot be answered as it is; /openapi.json describes the calls"
_CLOSING = {"request_timeout", "incomplete_body"}  # where the rest of the body is not waited for

_RANDOM = random.Random()  # noqa: S311 - an id is no secret, and asking the kernel takes ten times as long

_log = logging.getLogger("blossom_async.gateway")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turns what a handler raises into an answer, and gives every answer a request id and a server's name."""
    request_id = new_request_id()
    try:
        response = await handler(request)
    except ResponseError as exc:
        return problem(exc, request_id)
    except InvalidRequest as exc:
        rejected = ResponseError(str(exc), status=422, code="invalid_request", field=exc.field)
        return problem(rejected, request_id)
    except web.HTTPException as exc:  # aiohttp's own: no such route, wrong method, body too large
        return refusal(exc, request_id)
    except Exception:  # noqa: BLE001 - the task's border: it is logged, and the caller learns where to look
        _log.exception("request %s failed", request_id)
        return problem(ServerFailed("the gateway failed; its log has the request id"), request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = _SERVER
    return response


def new_request_id() -> str:
    """An id that the log and the caller share."""
    return f"{_RANDOM.getrandbits(64):016x}"


def refusal(exc: web.HTTPException, request_id: str) -> web.Response:
    """The answer to a request that aiohttp refuses."""
    code, detail = _REFUSALS.get(exc.status, _OTHER)
    answer = problem(ResponseError(detail, status=exc.status, code=code), request_id)
    for name in ("Allow", "Content-Range"):
        if name in exc.headers:
            answer.headers[name] = exc.headers[name]
    return answer


def problem(error: ResponseError, request_id: str) -> web.Response:
    """The answer that tells of an error."""
    body, headers = told(error, request_id)
    answer = web.Response(status=error.status, body=body, content_type=PROBLEM, headers=headers)
    answer[ERROR_CODE] = error.code
    if error.code in _CLOSING:
        answer.force_close()
    return answer


def told(error: ResponseError, request_id: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an error."""
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
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id, "Server": _SERVER}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return orjson.dumps(body), headers


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL else f"{text[: _MAX_DETAIL - 3]}..."
