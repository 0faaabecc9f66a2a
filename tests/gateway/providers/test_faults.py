"""What a provider's refusal means: read from its status, headers and body, whatever they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blossom_async.errors import Overloaded, PaymentRequired, ProviderFailed, Rejected, ResponseError
from blossom_async.gateway.providers.faults import Kind, ProviderFault, refusal, shortened, to_error

KEY = "canary-0123456789-abcdefgh"
PROMPT = "a canary prompt about a yellow bird"

texts = st.text(max_size=40)
statuses = st.integers(100, 599)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.sampled_from([KEY, PROMPT, "Queue full"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
details = st.fixed_dictionaries({}, optional={"upstreamStatus": values, "upstreamBody": values})
errors = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("code", "type", "message", "requestId", "innererror"), values)
    | {"details": details},
)
envelopes = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("message", "detail", "code", "type", "x402Version", "retryAfterSeconds"), values)
    | {"error": errors | values},
)


def fault_of(status: int, body: object, **headers: str) -> ProviderFault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refusal("p", status, named, data, key=KEY, prompt=PROMPT)


def some_fault(kind: Kind, charged: str = "no", **fields: Any) -> ProviderFault:
    return ProviderFault("p", kind, "said no", charged=charged, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "body", "kind", "charged"),
    [
        (400, {"error": {"code": "BAD_REQUEST", "message": "m"}}, Kind.REJECTED, "no"),
        (400, {"error": {"code": "billing_hard_limit_reached"}}, Kind.OUT_OF_FUNDS, "no"),
        (
            400,
            {"error": {"code": "400", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            Kind.MODERATION,
            "no",
        ),
        (400, {"error": {"code": "contentFilter"}}, Kind.MODERATION, "no"),
        (400, {"error": {"type": "safety_error"}}, Kind.MODERATION, "no"),
        (402, {}, Kind.OUT_OF_FUNDS, "no"),
        (402, {"x402Version": 1, "error": "X-PAYMENT header is required"}, Kind.OUT_OF_FUNDS, "no"),
        (402, {"x402Version": 1, "error": "Queue full for IP: 1.2.3.4"}, Kind.RATE_LIMITED, "no"),
        (403, b"<html>Forbidden</html>", Kind.UNAUTHORIZED, "no"),
        (404, {"detail": "no such model"}, Kind.REJECTED, "no"),
        (408, {}, Kind.LOST, "unknown"),
        (409, {}, Kind.LOST, "unknown"),
        (413, b"", Kind.REJECTED, "no"),
        (422, {"detail": [{"loc": ["body"], "msg": "size is wrong"}]}, Kind.REJECTED, "no"),
        (429, {"error": {"code": "insufficient_quota"}}, Kind.OUT_OF_FUNDS, "no"),
        (429, b"", Kind.RATE_LIMITED, "no"),
        (301, b"", Kind.UNAVAILABLE, "no"),
        (500, {"error": {"code": "insufficient_quota"}}, Kind.LOST, "unknown"),
        (502, {"error": {"details": {"upstreamStatus": 401}}}, Kind.UNAVAILABLE, "no"),
        (502, {"error": {"details": {"upstreamStatus": 429}}}, Kind.RATE_LIMITED, "no"),
        (502, {"error": {"details": {"upstreamStatus": 524}}}, Kind.LOST, "unknown"),
        (503, b"", Kind.UNAVAILABLE, "no"),
        (504, b"", Kind.LOST, "unknown"),
        (520, b"", Kind.LOST, "unknown"),
        (522, b"", Kind.UNAVAILABLE, "no"),
        (524, b"<html>", Kind.LOST, "unknown"),
        (530, b"error code: 1033", Kind.UNAVAILABLE, "no"),
        (204, b"", Kind.BAD_CONTENT, "unknown"),
        (400, {"errors": [{"message": "m", "code": "content_policy_violation"}]}, Kind.MODERATION, "no"),
        (400, [{"error": {"code": "insufficient_quota"}}], Kind.OUT_OF_FUNDS, "no"),
        (400, {"error": {"message": '{"error": {"code": "moderation_blocked"}}'}}, Kind.MODERATION, "no"),
    ],
)
def test_a_refusal_is_told_by_what_it_says(status: int, body: object, kind: Kind, charged: str) -> None:
    """The status alone does not decide: money, moderation and limits come under several."""
    fault = fault_of(status, body)
    assert (fault.kind, fault.charged) == (kind, charged)


@pytest.mark.parametrize(
    "body",
    [
        {"errors": ["size is too large"]},
        {"errors": {"size": ["is too large"]}},
        {"errors": {"size": "is too large"}},
        [{"error": {"code": 400, "message": "size is too large"}}],
        {"error": {"message": '{"error": {"message": "size is too large"}}'}},
    ],
)
def test_what_was_wrong_is_passed_on(body: object) -> None:
    """However the service wraps it: several errors, errors by field, or the error of a service behind it."""
    assert "size is too large" in str(fault_of(400, body))


@given(
    status=statuses, body=st.binary(max_size=300) | envelopes.map(lambda found: json.dumps(found).encode())
)
@example(status=429, body=b"[" * 5000)
@example(status=500, body=b'{"error": {"message": "\\ud800"}}')
@example(status=400, body=b'{"retryAfterSeconds": 1e400}')
@example(status=400, body=b'{"retryAfterSeconds": true, "detail": [[], {"msg": 5}]}')
@example(status=400, body=b'{"error": ' + b'"' + b"x" * 300_000 + b'"}')
@example(status=400, body=json.dumps({"error": {"code": KEY, "requestId": KEY}}).encode())
@example(status=400, body=b'{"message": "\\u200e\\u2066"}')
@example(status=400, body=b'{"errors": {"a": [[[5]]], "b": {}}}')
@example(status=400, body=b"[[]]")
def test_whatever_a_provider_answers_is_one_fault(status: int, body: bytes) -> None:
    """No body raises anything; the message is one line of bounded length, without the key and the prompt."""
    fault = refusal("p", status, {}, body, key=KEY, prompt=PROMPT)
    assert isinstance(fault.kind, Kind)
    assert (fault.charged == "unknown") == (fault.kind in {Kind.LOST, Kind.BAD_CONTENT})
    shown = str(fault)
    assert KEY not in shown
    assert PROMPT not in shown
    assert shown.isprintable()
    assert len(shown) < 600
    assert isinstance(to_error(fault), ResponseError)


@given(
    headers=st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x-request-id", "date"]), texts)
)
@example(headers={"retry-after": "1e18"})
@example(headers={"retry-after": "Wed, 99 Nov 99999 00:00:00 GMT"})
@example(headers={"retry-after": "-5"})
def test_whatever_the_headers_say_is_a_time_or_ignored(headers: dict[str, str]) -> None:
    """The wait is between nothing and seven days, or none."""
    wait = refusal("p", 429, headers, b"{}").retry_after_s
    assert wait is None or 0 <= wait <= 604_800


def test_the_longer_of_two_waits_holds() -> None:
    """Header and body may differ."""
    assert fault_of(429, {"retryAfterSeconds": 3}, Retry_After="5").retry_after_s == 5
    assert fault_of(429, {"retryAfterSeconds": 8.5}, Retry_After="5").retry_after_s == 8.5


def test_the_request_id_is_kept_where_it_can_be_shown() -> None:
    """From the header, else from the body, and never what is no id."""
    assert fault_of(500, {}, x_request_id="req_1").request_id == "req_1"
    assert fault_of(500, {"error": {"requestId": "abc-2"}}).request_id == "abc-2"
    assert fault_of(500, {"requestId": "abc\n2"}).request_id is None
    assert "req_1" in str(fault_of(500, {}, x_request_id="req_1"))


def test_the_upstreams_own_words_are_not_shown() -> None:
    """``upstreamBody`` may hold anything."""
    body = {
        "error": {"message": "bad gateway", "details": {"upstreamStatus": 500, "upstreamBody": "inner words"}}
    }
    assert "inner" not in str(fault_of(502, body))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"the key {KEY} is unknown", "the key *** is unknown"),
        (f"no picture for {PROMPT}!", "no picture for ***!"),
        ("Incorrect API key provided: sk-proj-abcdef***xyz.", "Incorrect API key provided: ***."),
        ("Authorization: Bearer abcdefgh12345678 refused", "Authorization: *** refused"),
        ('{"api_key": "abcdefgh12345678"} refused', '{"***"} refused'),
        ("see https://a.example/x?key=abcdefgh#top now", "see https://a.example/x?*** now"),
        ("two\r\nlines\x1b[31m\u2028", "two lines [31m"),
        ("x" * 500, "x" * 197 + "..."),
    ],
)
def test_words_are_shortened_and_without_secrets(words: str, said: str) -> None:
    """What a provider repeats of a request is left out, and what looks like a key."""
    assert shortened(words, key=KEY, prompt=PROMPT) == said


@pytest.mark.parametrize(
    ("kind", "error", "status", "code"),
    [
        (Kind.RATE_LIMITED, Overloaded, 503, "overloaded"),
        (Kind.OUT_OF_FUNDS, PaymentRequired, 402, "provider_out_of_funds"),
        (Kind.UNAUTHORIZED, ProviderFailed, 502, "provider_unauthorized"),
        (Kind.MISCONFIGURED, ProviderFailed, 502, "provider_misconfigured"),
        (Kind.MODERATION, Rejected, 422, "content_refused"),
        (Kind.REJECTED, Rejected, 422, "provider_rejected"),
        (Kind.UNAVAILABLE, ProviderFailed, 502, "provider_unavailable"),
        (Kind.BAD_CONTENT, ProviderFailed, 502, "provider_bad_content"),
        (Kind.PLACEHOLDER, ProviderFailed, 502, "provider_placeholder"),
        (Kind.UNSENT, ProviderFailed, 502, "provider_unreachable"),
        (Kind.LOST, ProviderFailed, 502, "provider_outcome_unknown"),
    ],
)
def test_each_kind_has_its_answer(kind: Kind, error: type[ResponseError], status: int, code: str) -> None:
    """The gateway's caller learns what it can do, and the provider's name of the exchange."""
    answer = to_error(some_fault(kind, request_id="req_7"))
    assert (type(answer), answer.status, answer.code) == (error, status, code)
    assert answer.detail.startswith("p: said no (its request req_7); ")


def test_a_limit_is_answered_with_a_time() -> None:
    """The provider's own, else ten seconds."""
    assert to_error(some_fault(Kind.RATE_LIMITED, retry_after_s=45.0)).retry_after_s == 45
    assert "in 45 s" in to_error(some_fault(Kind.RATE_LIMITED, retry_after_s=45.0)).detail
    assert to_error(some_fault(Kind.RATE_LIMITED)).retry_after_s == 10
    assert to_error(some_fault(Kind.UNAVAILABLE)).retry_after_s is None


def test_only_what_was_not_charged_is_safe_to_repeat() -> None:
    """And only where a second try can end otherwise."""
    safe = {kind for kind in Kind if some_fault(kind).safe_to_repeat}
    assert safe == set(Kind) - {Kind.MODERATION, Kind.REJECTED}
    assert not any(
        some_fault(kind, charged).safe_to_repeat for kind in Kind for charged in ("yes", "unknown")
    )


def test_another_provider_is_not_asked_while_the_first_may_have_been_paid() -> None:
    """Nor for a request that is itself at fault."""
    not_helped = {kind for kind in Kind if not some_fault(kind).another_may_help}
    assert not_helped == {Kind.LOST, Kind.MODERATION, Kind.REJECTED}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_says_where_it_leads(status: int) -> None:
    """The URL is what the gateway's owner has to correct; no key is ever sent on."""
    fault = fault_of(status, b"", Location=f"https://a.example/v1/?key={KEY}")
    assert (fault.kind, fault.charged) == (Kind.MISCONFIGURED, "no")
    assert "it leads to https://a.example/v1/?***" in str(fault)
    assert "BLOSSOM_P_URL" in str(to_error(fault))
