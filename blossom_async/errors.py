"""The error classes, and the table between HTTP status and class that client and gateway share."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BlossomError",
    "ConfigurationError",
    "Conflict",
    "GateUnavailable",
    "Gone",
    "InvalidRequest",
    "JournalMismatch",
    "MissingOption",
    "NotFound",
    "NotRun",
    "Overloaded",
    "PaymentRequired",
    "PermissionDenied",
    "ProviderFailed",
    "RateLimited",
    "Rejected",
    "ResponseError",
    "ServerFailed",
    "StaleConnection",
    "TimedOut",
    "TransportError",
    "Unauthenticated",
    "UnknownOption",
    "class_for_status",
    "in_one_line",
    "nearest",
    "shown",
]


class BlossomError(Exception):
    """Base class of every error this package raises on purpose."""


class InvalidRequest(BlossomError, ValueError):
    """An invalid value, found before anything was sent.

    ``field`` is its name, ``value`` what was given, ``allowed`` what is accepted.
    """

    def __init__(self, field: str, value: object, allowed: str, *, seen: str | None = None) -> None:
        super().__init__(field, value, allowed, seen)
        self.field = field
        self.value = value
        self.allowed = allowed
        self.seen: str = seen if seen is not None else shown(value)

    def __str__(self) -> str:
        return f"{self.field}: {self.seen} cannot be used; allowed: {self.allowed}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_invalid_request, (type(self), *self.args), self.__dict__


class UnknownOption(TypeError):
    """An option that does not exist. ``option`` is its name, ``known`` are the names that do."""

    def __init__(self, option: object, known: Iterable[str]) -> None:
        self.option = option
        self.known: tuple[str, ...] = tuple(known)
        super().__init__(option, self.known)

    def __str__(self) -> str:
        hint = nearest(str(self.option), self.known)
        return f"unknown option {shown(self.option)}.{hint} Known options: {', '.join(self.known)}"


class MissingOption(TypeError):
    """An option without a default that was not given; ``option`` is its name."""

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self.option = option

    def __str__(self) -> str:
        return f"the option {self.option!r} is missing"


class ConfigurationError(BlossomError):
    """The set-up is at fault, not the request: an address, a key, a folder, a port, a missing extra."""


class JournalMismatch(ConfigurationError):
    """The file named as the journal records another batch, or is not a journal. It was left unchanged."""


class TransportError(BlossomError):
    """No answer came from the gateway: refused, reset, unresolved."""


class StaleConnection(TransportError):
    """A kept-alive connection turned out to be closed before the first byte of the answer.

    The request most likely never reached the gateway, so it can be repeated at once.
    """


class TimedOut(TransportError, TimeoutError):
    """The timeout of one attempt expired before the answer was complete."""


class GateUnavailable(TransportError):
    """The place of a shared limit gives no start times, so nothing may start. Nothing was sent or paid."""


class ResponseError(BlossomError):
    """The gateway answered with an error.

    ``status`` HTTP status · ``code`` stable identifier for programs · ``detail`` sentence for people ·
    ``field`` the option at fault, if any · ``request_id`` identifies the exchange in the gateway's log ·
    ``retry_after_s`` seconds the gateway asks to wait, if it does.
    """

    status: int = 500
    code: str = "error"

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = type(self).status if status is None else status
        self.code = type(self).code if code is None else code
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        trace = f", request {self.request_id}" if self.request_id else ""
        return f"{self.detail} ({self.status} {self.code}{trace})"


class Unauthenticated(ResponseError):
    """The API key is missing or unknown."""

    status = 401
    code = "unauthenticated"


class PaymentRequired(ResponseError):
    """The account's money or budget is used up."""

    status = 402
    code = "payment_required"


class PermissionDenied(ResponseError):
    """The key is valid but may not do this."""

    status = 403
    code = "permission_denied"


class NotFound(ResponseError, LookupError):
    """The gateway has no such picture."""

    status = 404
    code = "not_found"


class Conflict(ResponseError):
    """The request conflicts with another one, in progress or done."""

    status = 409
    code = "conflict"


class Gone(ResponseError):
    """The picture existed and has expired or was deleted."""

    status = 410
    code = "gone"


class Rejected(ResponseError):
    """The gateway understood the request and refuses to carry it out as written."""

    status = 422
    code = "invalid_request"


class RateLimited(ResponseError):
    """Too many requests; ``retry_after_s`` says how long to wait, if that is known."""

    status = 429
    code = "rate_limited"


class ServerFailed(ResponseError):
    """The gateway failed; the same request may succeed later."""

    status = 500
    code = "server_failed"


class ProviderFailed(ServerFailed):
    """The image provider behind the gateway failed, or its answer was not a picture."""

    status = 502
    code = "provider_failed"


class Overloaded(ServerFailed):
    """The gateway cannot accept more work now, or has no room to store it."""

    status = 503
    code = "overloaded"


class NotRun(BlossomError):
    """This item of a batch was never tried; ``reason`` says why the batch stopped before it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not tried: {self.reason}"


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3  # JSON may be nested deeper than repr() can follow
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

_BY_STATUS: dict[int, type[ResponseError]] = {
    error.status: error
    for error in (
        Unauthenticated,
        PaymentRequired,
        PermissionDenied,
        NotFound,
        Conflict,
        Gone,
        Rejected,
        RateLimited,
        ServerFailed,
        ProviderFailed,
        Overloaded,
    )
}


def class_for_status(status: int) -> type[ResponseError]:
    """The error class for an HTTP status of 400 or above."""
    return _BY_STATUS.get(status, ServerFailed if status >= 500 else ResponseError)


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'width'?`` if a known name is close, else an empty string."""
    close = difflib.get_close_matches(name[:64], list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """A value for a message: its repr, of bounded length and depth."""
    return _SHORT.repr(value)


def in_one_line(error: BaseException | None) -> str:
    """The words of an error for a message or a log."""
    return " ".join(str(error).split())


def _rebuild_invalid_request(
    cls: type[InvalidRequest], field: str, value: object, allowed: str, seen: str | None
) -> InvalidRequest:
    return cls(field, value, allowed, seen=seen)
