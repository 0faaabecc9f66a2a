"""Every error of the gateway as ``application/problem+json`` (RFC 9457), never stored by a cache."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from blossom_async.errors import InvalidRequest, ResponseError, ServerFailed

__all__ = ["Connection", "problems"]

_MAX_DETAIL = 500  # characters; what a caller named is shown in it, and that may be a megabyte
_CLOSING = {"request_timeout", "incomplete_body"}  # where the rest of the body is not waited for

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
        return _refusal(exc, request_id)
    except Exception:  # noqa: BLE001 - the task's border: it is logged, and the caller learns where to look
        _log.exception("request %s failed", request_id)
        return _problem(ServerFailed("the gateway failed; its log has the request id"), request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    return response


class Connection(web.RequestHandler):
    """A connection that says as a problem, too, what aiohttp refuses before any handler is asked.

    aiohttp's own answer and log quote the line at fault, which may hold an API key or a prompt. Here neither
    the answer nor the log has anything of the request: the log gets the name of the exception's class.
    """

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to a failure outside the handlers; then the connection ends."""
        request_id = secrets.token_hex(8)
        _tell(exc, request_id)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so that no other can be sent")
        if status < 500:
            error = ResponseError("this is not valid HTTP/1.1", status=status, code="malformed_request")
        else:
            error = ServerFailed("the gateway failed; its log has the request id", status=status)
        answer = _problem(error, request_id)
        answer.headers["Server"] = "blossom"  # no application has seen the request, so none names itself
        answer.force_close()
        return answer

    def log_exception(self, *_: object, exc_info: BaseException | None = None, **__: object) -> None:
        """What aiohttp logs of a connection that failed: the class only."""
        _tell(exc_info, "of no id")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends the answer. A refusal raised before the middleware, as for ``Expect``, becomes a problem."""
        if isinstance(resp, web.HTTPException):
            resp = _refusal(resp, secrets.token_hex(8))
        return await super().finish_response(request, resp, start_time)


def _tell(exc: BaseException | None, request_id: str) -> None:
    # What any stranger can cause is no more than information: it must not fill the log of who runs this.
    callers = isinstance(exc, HttpProcessingError | web.RequestPayloadError | ConnectionError)
    level = logging.INFO if callers else logging.ERROR
    _log.log(level, "request %s failed outside the handlers: %s", request_id, type(exc).__name__)


def _refusal(exc: web.HTTPException, request_id: str) -> web.Response:
    refused = ResponseError(exc.reason, status=exc.status, code=exc.reason.lower().replace(" ", "_"))
    answer = _problem(refused, request_id)
    for name in ("Allow", "Content-Range"):
        if name in exc.headers:
            answer.headers[name] = exc.headers[name]
    return answer


def _problem(error: ResponseError, request_id: str) -> web.Response:
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
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    answer = web.Response(
        status=error.status,
        body=orjson.dumps(body),
        content_type="application/problem+json",
        headers=headers,
    )
    if error.code in _CLOSING:
        answer.force_close()
    return answer


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL else f"{text[: _MAX_DETAIL - 3]}..."
