"""Errors as problems: their codes are a table of ours, the same on every interpreter."""

from __future__ import annotations

import orjson
import pytest
from aiohttp import web

from blossom_async.gateway.http.problems import refusal


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        (web.HTTPNotFound(), "not_found"),
        (web.HTTPMethodNotAllowed("PUT", ["GET"]), "method_not_allowed"),
        (web.HTTPRequestEntityTooLarge(1, 2, reason="Content Too Large"), "request_entity_too_large"),
        (web.HTTPRequestRangeNotSatisfiable(), "requested_range_not_satisfiable"),
        (web.HTTPExpectationFailed(text="Unknown Expect: magic"), "expectation_failed"),
        (web.HTTPBadRequest(reason="Anything"), "refused"),
    ],
)
def test_a_refusal_of_aiohttp_has_a_code_of_ours(refused: web.HTTPException, code: str) -> None:
    """Whatever the interpreter and aiohttp call the status."""
    body = refusal(refused, "0123").body
    assert isinstance(body, bytes)
    problem = orjson.loads(body)
    assert (problem["code"], problem["status"]) == (code, refused.status)
    assert refused.reason not in problem["detail"]


def test_a_refusal_keeps_the_headers_that_tell_what_to_do() -> None:
    """``Allow`` names the methods there are."""
    assert refusal(web.HTTPMethodNotAllowed("PUT", ["GET", "HEAD"]), "0123").headers["Allow"] == "GET,HEAD"
