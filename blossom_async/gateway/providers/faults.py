"""What goes wrong at a provider, whether it was charged, and what the gateway answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from blossom_async.batch.hints import retry_after_s
from blossom_async.errors import (
    BlossomError,
    Overloaded,
    PaymentRequired,
    ProviderFailed,
    Rejected,
    ResponseError,
)
from blossom_async.gateway.providers.answers import document_of, fields_of

__all__ = ["Charged", "Kind", "ProviderFault", "refusal", "request_id", "shortened", "to_error"]

Charged = Literal["no", "yes", "unknown"]


class Kind(StrEnum):
    """What went wrong."""

    RATE_LIMITED = "rate_limited"
    """Too many requests, in any form a provider says so. Nothing was made."""
    OUT_OF_FUNDS = "out_of_funds"
    """The account or the key has no money left, whatever the status."""
    UNAUTHORIZED = "unauthorized"
    """The key is missing, invalid or not permitted."""
    MISCONFIGURED = "misconfigured"
    """The provider's URL is wrong: it redirects, or the paths of the API do not exist there."""
    MODERATION = "moderation"
    """The provider refuses the content."""
    REJECTED = "rejected"
    """The request itself is at fault: a repetition would be refused, too."""
    UNAVAILABLE = "unavailable"
    """The provider, or a service it depends on, accepted no work."""
    BAD_CONTENT = "bad_content"
    """An answer came without a usable picture."""
    PLACEHOLDER = "placeholder"
    """A picture came that is known to mean "too many requests"."""
    UNSENT = "unsent"
    """No connection: nothing of the request was sent."""
    OUT_OF_FILES = "out_of_files"
    """This machine may open no more connections for now: nothing of the request was sent."""
    LOST = "lost"
    """The request was sent, the outcome is unknown: a timeout, a reset, an error after work had begun."""


class ProviderFault(BlossomError):
    """A provider did not deliver. ``detail`` has its own words, shortened and without secrets.

    ``charged`` is ``no`` if nothing can have been charged, ``yes`` if the provider counts the picture as
    delivered, else ``unknown``. ``retry_after_s`` is the wait the provider asks for.
    """

    def __init__(
        self,
        provider: str,
        kind: Kind,
        detail: str,
        *,
        charged: Charged,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.provider = provider
        self.kind = kind
        self.detail = detail
        self.charged = charged
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        trace = f" (its request {self.request_id})" if self.request_id else ""
        return f"{self.provider}: {self.detail}{trace}"

    @property
    def safe_to_repeat(self) -> bool:
        """Whether the same request can be sent again, to any provider, without paying twice."""
        return self.charged == "no" and self.kind not in _FINAL

    @property
    def another_may_help(self) -> bool:
        """Whether to ask another provider for the same picture.

        Not if the request is at fault, and not while this provider may have been paid for it.
        """
        return self.kind not in {*_FINAL, Kind.LOST}


_FINAL = {Kind.MODERATION, Kind.REJECTED}

_ERRORS: Mapping[Kind, tuple[type[ResponseError], str, str]] = {
    Kind.RATE_LIMITED: (Overloaded, "overloaded", "send the request again in {wait:g} s"),
    Kind.OUT_OF_FUNDS: (
        PaymentRequired,
        "provider_out_of_funds",
        "the gateway's owner must add funds there, or put another provider first",
    ),
    Kind.UNAUTHORIZED: (
        ProviderFailed,
        "provider_unauthorized",
        "the gateway's owner must check its key for this provider",
    ),
    Kind.MISCONFIGURED: (
        ProviderFailed,
        "provider_misconfigured",
        "the gateway's owner must correct {setting}",
    ),
    Kind.MODERATION: (Rejected, "content_refused", "change the prompt"),
    Kind.REJECTED: (Rejected, "provider_rejected", "change the request"),
    Kind.UNAVAILABLE: (ProviderFailed, "provider_unavailable", "send the request again later"),
    Kind.BAD_CONTENT: (ProviderFailed, "provider_bad_content", "send the request again for another picture"),
    Kind.PLACEHOLDER: (ProviderFailed, "provider_placeholder", "send the request again later, and slower"),
    Kind.UNSENT: (ProviderFailed, "provider_unreachable", "send the request again later"),
    Kind.OUT_OF_FILES: (Overloaded, "overloaded", "send the request again in {wait:g} s"),
    Kind.LOST: (
        ProviderFailed,
        "provider_outcome_unknown",
        "nobody knows whether it was charged; repeat it only with the same Idempotency-Key",
    ),
}
_USUAL_WAIT_S = 10.0  # when the provider names none; Pollinations counts per 10 s and address


def to_error(fault: ProviderFault) -> ResponseError:
    """The error for the gateway's caller."""
    error, code, advice = _ERRORS[fault.kind]
    wait = fault.retry_after_s
    if fault.kind is Kind.RATE_LIMITED and wait is None:
        wait = _USUAL_WAIT_S
    setting = f"BLOSSOM_{fault.provider.upper()}_URL"
    return error(f"{fault}; {advice.format(wait=wait, setting=setting)}", code=code, retry_after_s=wait)


_MONEY = {
    "billinghardlimitreached",
    "billingnotactive",
    "insufficientbalance",
    "insufficientcredits",
    "insufficientfunds",
    "insufficientquota",
    "keybudgetexhausted",
    "paymentrequired",
}
_REFUSED = {
    "contentblocked",
    "contentfilter",
    "contentpolicyviolation",
    "moderationblocked",
    "responsibleaipolicyviolation",
    "safetyerror",
}
_TOO_FAST = {"concurrencylimitexceeded", "ratelimited", "ratelimitexceeded", "toomanyrequests"}
# 503 refuses the request (RFC 9110, 15.6.4); with the others the edge did not reach the origin
# (Cloudflare, "5xx errors": connection refused, timed out or not trusted, and tunnel or DNS errors).
_NOT_TAKEN = {503, 521, 522, 523, 525, 526, 529, 530}
_UPSTREAM_REFUSED = {401, 402, 403, 404, 415}
_LONGEST_WAIT_S = 7 * 86_400.0
_LONGEST_WORDS = 200
_SHORTEST_PROMPT = 4  # that stands out from the words around it
_ID = re.compile(r"[\w.:/-]{1,128}", re.ASCII)
_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "cf-ray")


def refusal(
    provider: str, status: int, headers: Mapping[str, str], body: bytes, *, key: str = "", prompt: str = ""
) -> ProviderFault:
    """The fault that a refusal means. Never raises.

    Reads the envelope of Pollinations, the ``error`` object of OpenAI, x402, and bare ``detail`` or
    ``message``, but no ``upstreamBody``. ``key`` and ``prompt`` are removed from the provider's words.
    """
    answer = _answer(body, headers.get("Content-Type", "")) if len(body) <= _MOST_READ else {}
    error = answer.get("error")
    inner = error if isinstance(error, dict) else {}
    said = inner.get("message")
    if isinstance(said, str) and (passed_on := fields_of(said.encode(errors="replace")).get("error")):
        inner = {**inner, **_dict(passed_on)}
    words = _words(answer, inner, body)
    codes = [inner.get("code"), inner.get("type"), answer.get("code"), answer.get("type")]
    codes += [_dict(inner.get("innererror")).get("code"), error]
    kind = _kind(status, {_token(code) for code in codes}, words, _upstream_status(inner))
    named = next((code for code in codes if isinstance(code, str) and _ID.fullmatch(code)), "")
    ids = (request_id(headers), _an_id(inner.get("requestId")), _an_id(answer.get("requestId")))
    said = shortened(words, key=key, prompt=prompt)
    seen = " ".join(filter(None, (f"answered {status}", shortened(named, key=key))))
    if 300 <= status < 400 and (place := headers.get("Location", "")):
        kind, said = Kind.MISCONFIGURED, f"it leads to {shortened(place, key=key, prompt=prompt)}"
    return ProviderFault(
        provider,
        kind,
        f"{seen}: {said}" if said else seen,
        charged="unknown" if kind in {Kind.LOST, Kind.BAD_CONTENT} else "no",
        request_id=next((found for found in ids if found and not (key and key in found)), None),
        retry_after_s=_wait(answer, headers),
    )


def _answer(body: bytes, content_type: str) -> dict[str, Any]:
    """The object in an answer; of a list, as Google has it, the first. ``errors`` stand for ``error``."""
    document = document_of(body, content_type)
    answer = _dict(document[0] if isinstance(document, list) and document else document)
    errors = answer.get("errors")
    if errors and not answer.get("error"):
        answer = {**answer, "error": _first(errors)}
    return answer


def _first(errors: object) -> object:
    """The first of several; of those by field, with the field's name."""
    if isinstance(errors, list):
        return errors[0] if errors else None
    for field, said in _dict(errors).items():
        words = _first(said) if isinstance(said, list) else said
        return {"message": f"{field} {words}"} if isinstance(words, str) else words
    return errors


def _kind(status: int, codes: set[str], words: str, upstream: int | None) -> Kind:
    if 400 <= status < 500:
        return _kind_of_refusal(status, codes, words)
    if 300 <= status < 400 or status in _NOT_TAKEN:
        return Kind.UNAVAILABLE
    if status < 500:
        return Kind.BAD_CONTENT
    if upstream == 429:
        return Kind.RATE_LIMITED
    return Kind.UNAVAILABLE if upstream in _UPSTREAM_REFUSED else Kind.LOST


def _kind_of_refusal(status: int, codes: set[str], words: str) -> Kind:
    # The older Pollinations host sends its queue limit as 429 and, dressed as a bill, as 402.
    if status in {402, 429} and "queue full" in words.lower():
        return Kind.RATE_LIMITED
    if status == 402 or codes & _MONEY:
        return Kind.OUT_OF_FUNDS
    if codes & _REFUSED:
        return Kind.MODERATION
    if status == 429 or codes & _TOO_FAST:
        return Kind.RATE_LIMITED
    if status in {401, 403, 407}:
        return Kind.UNAUTHORIZED
    # 408: nobody knows how much was received. 409: an earlier attempt under this key may be under way.
    return Kind.LOST if status in {408, 409} else Kind.REJECTED


def request_id(headers: Mapping[str, str]) -> str | None:
    """The service's own id of the exchange, None if there is none fit to show."""
    return next((found for name in _ID_HEADERS if (found := _an_id(headers.get(name)))), None)


def shortened(text: str, *, key: str = "", prompt: str = "") -> str:
    """A provider's words as one line of at most 200 characters, without secrets.

    The key, the prompt, and whatever looks like a key or the query of a URL are removed.
    """
    if key:
        text = text.replace(key, "***")
    if len(prompt) >= _SHORTEST_PROMPT:
        text = text.replace(prompt, "***")
    text = _QUERY.sub(r"\1?***", text)
    text = _KEY.sub("***", text)
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= _LONGEST_WORDS else f"{text[: _LONGEST_WORDS - 3]}..."


_QUERY = re.compile(r"(https?://[^\s?#\"'<>]{1,500})[?#][^\s\"'<>]*")
_KEY = re.compile(
    r"(?i)\b(?:(?:sk|pk|rk|plln)[-_][\w*-]{6,}|(?:bearer|basic)\s+[^\s\"',;]{6,}|eyJ[\w-]{8,}\.[\w.-]+"
    r"|(?:api[-_ ]?key|token|key|password|secret)\"?\s*[=:]\s*\"?[^\s\"',;&]{6,})"
)
_MOST_READ = 256 * 1024


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(answer: dict[str, Any], inner: dict[str, Any], body: bytes) -> str:
    for said in (inner.get("message"), answer.get("message"), answer.get("detail"), answer.get("error")):
        if isinstance(said, str) and said.strip():
            return said[:4096]
    found = answer.get("detail")  # of FastAPI: [{"loc": [...], "msg": "..."}]
    if isinstance(found, list):
        return "; ".join(str(_dict(each).get("msg", "")) for each in found[:3])[:4096]
    text = body[:4096].decode("utf-8", "replace").strip()
    if not text or answer:
        return ""
    if text.startswith("<"):
        return "a page instead of JSON"
    return "no JSON" if text[0] in "{[" or len(text) > _LONGEST_WORDS else text


def _token(code: object) -> str:
    return re.sub(r"[^a-z0-9]", "", code[:64].lower()) if isinstance(code, str) else ""


def _upstream_status(inner: dict[str, Any]) -> int | None:
    status = _dict(inner.get("details")).get("upstreamStatus")
    return status if isinstance(status, int) else None


def _wait(answer: dict[str, Any], headers: Mapping[str, str]) -> float | None:
    seconds = answer.get("retryAfterSeconds")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= _LONGEST_WAIT_S:
        return max(float(seconds), retry_after_s(headers) or 0.0)
    return retry_after_s(headers)


def _an_id(value: object) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None
