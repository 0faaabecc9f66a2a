"""The private API over real HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import io
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from PIL import Image

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.calls.incoming import json_type
from blossom_async.gateway.server import listen, serving
from blossom_async.gateway.settings import Settings
from tests.conftest import KEY, RunningGateway, running_gateway

SMALL: dict[str, Any] = {"prompt": "sunset over ocean", "width": 64, "height": 48}
Gateway = AbstractAsyncContextManager[RunningGateway]


async def call(
    running: RunningGateway, method: str, path: str, *, body: Any = None, **headers: str
) -> tuple[int, Any, Any]:
    """Status, headers and JSON (or bytes) of one exchange."""
    sent = {"Authorization": f"Bearer {running.api_key}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else None
    kind = {"data": io.BytesIO(data)} if data is not None else {"json": body} if body is not None else {}
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, running.base_url + path, headers=sent, **kind) as response,
    ):
        content = await response.read()
        return (
            response.status,
            response.headers,
            orjson.loads(content) if "json" in response.content_type else content,
        )


async def test_create_answers_201_with_the_picture(gateway: Gateway) -> None:
    """The URL in the answer opens, and its bytes are the ones the answer describes."""
    async with gateway as running:
        status, headers, info = await call(running, "POST", "/v1/images", body=SMALL)
        assert status == 201
        assert headers["Location"] == f"/v1/images/{info['id']}"
        assert info["url"] == f"{running.base_url}/image/{info['id']}"
        status, headers, data = await call(running, "GET", f"/image/{info['id']}")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert hashlib.sha256(data).hexdigest() == info["sha256"]
    assert len(data) == info["file_size"]
    assert Image.open(io.BytesIO(data)).size == (64, 48)


async def test_the_owner_gets_the_file_whatever_its_rules(gateway: Gateway) -> None:
    """No rule for viewers holds; nobody else gets it, and nobody once it is gone."""
    rules = {"ip_whitelist": ["192.0.2.1"], "require_signature": True, "allowed_domains": ["shop.example"]}
    async with gateway as running:
        _, _, info = await call(running, "POST", "/v1/images", body={**SMALL, **rules})
        path = f"/v1/images/{info['id']}/file"
        status, headers, data = await call(running, "GET", path)
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert hashlib.sha256(data).hexdigest() == info["sha256"]
        assert (await call(running, "GET", path, Authorization="Bearer wrong"))[0] == 401
        await call(running, "DELETE", f"/v1/images/{info['id']}")
        status, _, problem = await call(running, "GET", path)
    assert (status, problem["code"]) == (410, "deleted")


async def test_info_tells_what_was_made(gateway: Gateway) -> None:
    """Cost follows quality; provider, model and the seed in use are on record."""
    async with gateway as running:
        body = {**SMALL, "quality": "hd", "tracking_id": "summer", "metadata": {"variant": "A"}}
        _, _, info = await call(running, "POST", "/v1/images", body=body)
        _, _, again = await call(running, "GET", f"/v1/images/{info['id']}")
    assert again == info
    assert (info["cost"], info["provider"], info["model"]) == (2, "offline", "scenery-1")
    assert (info["tracking_id"], info["metadata"]) == ("summer", {"variant": "A"})
    assert isinstance(info["seed"], int)


async def test_same_seed_same_bytes(gateway: Gateway) -> None:
    """The pinned seed makes the same picture again."""
    async with gateway as running:
        _, _, first = await call(running, "POST", "/v1/images", body=SMALL)
        _, _, second = await call(running, "POST", "/v1/images", body={**SMALL, "seed": first["seed"]})
    assert first["sha256"] == second["sha256"]
    assert first["id"] != second["id"]


async def test_idempotency_key_replays(gateway: Gateway) -> None:
    """The same key and body give the same picture, marked as a replay."""
    async with gateway as running:
        _, headers, first = await call(running, "POST", "/v1/images", body=SMALL, Idempotency_Key="k1")
        status, replayed, second = await call(running, "POST", "/v1/images", body=SMALL, Idempotency_Key="k1")
    assert "Idempotent-Replayed" not in headers
    assert (status, replayed["Idempotent-Replayed"]) == (201, "true")
    assert second["id"] == first["id"]


async def test_concurrent_calls_with_one_key_make_one_picture(gateway: Gateway) -> None:
    """Whoever comes while the first is under way gets its picture."""
    async with gateway as running:
        answers = await asyncio.gather(
            *(call(running, "POST", "/v1/images", body=SMALL, Idempotency_Key="k1") for _ in range(20))
        )
    assert {status for status, _, _ in answers} == {201}
    assert len({info["id"] for _, _, info in answers}) == 1
    assert sum("Idempotent-Replayed" not in headers for _, headers, _ in answers) == 1


async def test_two_processes_with_one_key_make_one_picture(tmp_path: Path) -> None:
    """Gateways that share a data folder agree on who was first."""
    async with running_gateway(tmp_path / "data") as one, running_gateway(tmp_path / "data") as other:
        answers = await asyncio.gather(
            *(
                call(running, "POST", "/v1/images", body=SMALL, Idempotency_Key="k1")
                for running in (one, other) * 5
            )
        )
    assert {status for status, _, _ in answers} == {201}
    assert len({info["id"] for _, _, info in answers}) == 1


async def test_idempotency_key_with_another_body_is_refused(gateway: Gateway) -> None:
    """A key stands for one request."""
    async with gateway as running:
        await call(running, "POST", "/v1/images", body=SMALL, Idempotency_Key="k1")
        status, _, problem = await call(
            running, "POST", "/v1/images", body={**SMALL, "width": 65}, Idempotency_Key="k1"
        )
    assert (status, problem["code"]) == (422, "idempotency_key_reused")


async def test_replay_of_a_deleted_picture_is_gone(gateway: Gateway) -> None:
    """A key does not bring back what was deleted."""
    async with gateway as running:
        _, _, info = await call(running, "POST", "/v1/images", body=SMALL, Idempotency_Key="k1")
        await call(running, "DELETE", f"/v1/images/{info['id']}")
        status, _, _ = await call(running, "POST", "/v1/images", body=SMALL, Idempotency_Key="k1")
    assert status == 410


async def test_a_caller_that_goes_away_finds_its_picture_by_key(gateway: Gateway) -> None:
    """Work under an Idempotency-Key is finished, also when nobody waits for it."""
    async with gateway as running:
        body = {**SMALL, "width": 1024, "height": 1024}
        caller = asyncio.create_task(call(running, "POST", "/v1/images", body=body, Idempotency_Key="k1"))
        while not list(running.data_dir.glob("images/*/*")) and not caller.done():
            await asyncio.sleep(0)
            caller.cancel()
        status, _, info = await call(running, "POST", "/v1/images", body=body, Idempotency_Key="k1")
    assert status == 201
    assert info["width"] == 1024


async def test_regenerate_makes_the_picture_again(gateway: Gateway) -> None:
    """Without changes: the same bytes under a new id, with the expiry started anew."""
    async with gateway as running:
        _, _, info = await call(running, "POST", "/v1/images", body={**SMALL, "expires_in": 60})
        status, _, again = await call(running, "POST", f"/v1/images/{info['id']}/regenerate", body={})
    assert status == 201
    assert again["id"] != info["id"]
    assert again["sha256"] == info["sha256"]
    assert again["expires_at"] > info["expires_at"]


async def test_regenerate_takes_changes(gateway: Gateway) -> None:
    """The body's options win over the earlier request's."""
    async with gateway as running:
        _, _, info = await call(running, "POST", "/v1/images", body=SMALL)
        _, _, again = await call(
            running, "POST", f"/v1/images/{info['id']}/regenerate", body={"format": "jpg", "seed": 5}
        )
    assert (again["format"], again["seed"], again["width"]) == ("jpg", 5, 64)


async def test_deleted_pictures_are_gone(gateway: Gateway) -> None:
    """After DELETE the URL and the record answer 410, and the bytes are off the disk."""
    async with gateway as running:
        _, _, info = await call(running, "POST", "/v1/images", body=SMALL)
        status, _, _ = await call(running, "DELETE", f"/v1/images/{info['id']}")
        assert status == 204
        for method, path in (
            ("GET", f"/image/{info['id']}"),
            ("GET", f"/v1/images/{info['id']}"),
            ("DELETE", f"/v1/images/{info['id']}"),
        ):
            status, headers, _ = await call(running, method, path)
            assert (status, headers["Cache-Control"]) == (410, "no-store")
        assert not [path for path in running.data_dir.glob("images/*/*") if path.is_file()]


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY])
async def test_without_a_key_nothing_is_done(gateway: Gateway, authorization: str) -> None:
    """Every private call needs a key of this gateway."""
    async with gateway as running:
        for method, path in (
            ("POST", "/v1/images"),
            ("GET", "/v1/images/x"),
            ("DELETE", "/v1/images/x"),
            ("POST", "/v1/images/x/regenerate"),
        ):
            body = SMALL if method == "POST" else None
            status, headers, problem = await call(
                running, method, path, body=body, Authorization=authorization
            )
            assert (status, problem["code"]) == (401, "unauthenticated")
            assert headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "malformed_body", None),
        (b"", 400, "malformed_body", None),
        (b'{"prompt": NaN}', 400, "malformed_body", None),
        (b"\xff\xfe", 400, "malformed_body", None),
        (b"[" * 100_000, 400, "malformed_body", None),
        (b"[]", 422, "invalid_request", None),
        (b'"a lake"', 422, "invalid_request", None),
        (b"{}", 422, "missing_option", None),
        (b'{"prompt":"x","widht":3}', 422, "unknown_option", None),
        (b'{"prompt":""}', 422, "invalid_request", "prompt"),
        (b'{"prompt":"x","width":"1024"}', 422, "invalid_request", "width"),
        (b'{"prompt":"x","transparency":"false"}', 422, "invalid_request", "transparency"),
        (b'{"prompt":"x","format":"jpg","transparency":true}', 422, "invalid_request", "transparency"),
        (b'{"prompt":"x","model":"flux"}', 422, "invalid_request", "model"),
        (b'{"prompt":"x","use_custom_cdn":true}', 422, "invalid_request", "use_custom_cdn"),
        (b'{"prompt":"x","metadata":{"a":{"b":1}}}', 422, "invalid_request", "metadata['a']"),
        (b'{"prompt":"' + b"x" * 1_100_000 + b'"}', 413, "request_entity_too_large", None),
    ],
)
async def test_bad_bodies_are_refused(
    gateway: Gateway, body: bytes, status: int, code: str, field: str | None
) -> None:
    """Each refusal is problem+json with a code, and nothing is stored."""
    async with gateway as running:
        got, headers, problem = await call(running, "POST", "/v1/images", body=body)
        assert not list(running.data_dir.glob("images/*/*"))
    assert (got, problem["code"], problem.get("field")) == (status, code, field)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert problem["request_id"] == headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "null"), (True, "a boolean"), (1.5, "a number"), ([], "an array"), ({}, "an object")],
)
def test_a_value_is_named_in_the_words_of_json(value: object, said: str) -> None:
    """Callers may never have seen Python."""
    assert json_type(value) == said


@pytest.mark.parametrize("key", ["", "two words", "ключ", "x" * 256])
async def test_malformed_idempotency_keys_are_refused(gateway: Gateway, key: str) -> None:
    """One to 255 visible ASCII characters, or nothing is made."""
    async with gateway as running:
        status, _, problem = await call(
            running, "POST", "/v1/images", body=b'{"prompt":"a lake"}', Idempotency_Key=key
        )
    assert (status, problem["code"]) == (400, "malformed_idempotency_key")


async def test_other_content_types_are_refused(gateway: Gateway) -> None:
    """A body that is not declared as JSON is not read as JSON."""
    async with gateway as running:
        status, _, problem = await call(running, "POST", "/v1/images", body=b"{}", Content_Type="text/plain")
    assert (status, problem["code"]) == (415, "unsupported_media_type")
    assert problem["detail"] == "the body is text/plain; send the header 'Content-Type: application/json'"


async def test_a_body_may_begin_with_a_byte_order_mark(gateway: Gateway) -> None:
    """As files of some editors do (RFC 8259, 8.1); and "identity" is no encoding."""
    body = "\ufeff".encode() + b'{"prompt": "a", "width": 16, "height": 16}'
    async with gateway as running:
        status, _, _ = await call(running, "POST", "/v1/images", body=body, Content_Encoding="identity")
    assert status == 201


async def test_a_body_in_another_charset_says_so(gateway: Gateway) -> None:
    """Windows PowerShell sends Latin-1 where it is not told otherwise."""
    async with gateway as running:
        body = '{"prompt": "grün"}'.encode("latin-1")
        status, _, problem = await call(running, "POST", "/v1/images", body=body)
    assert (status, problem["code"]) == (400, "malformed_body")
    assert problem["detail"] == "the body is not UTF-8: byte 0xfc at 15; send JSON in UTF-8"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("PUT", "/v1/images", 405),
        ("GET", "/v1/images/unknown", 404),
        ("GET", "/v1/images/%00", 404),
        ("GET", "/v1/images/%2e%2e%2fapi_key", 404),
    ],
)
async def test_unknown_things_are_problems_too(gateway: Gateway, method: str, path: str, status: int) -> None:
    """aiohttp's own refusals come in the same form as ours."""
    async with gateway as running:
        got, headers, problem = await call(running, method, path)
    assert (got, problem["status"]) == (status, status)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Server"] == "blossom"


async def test_health_names_the_service(gateway: Gateway) -> None:
    """``/healthz`` needs no key and tells that a Blossom gateway answers."""
    async with gateway as running:
        status, _, health = await call(running, "GET", "/healthz", Authorization="")
    assert (status, health["service"], health["status"]) == (200, "blossom", "ok")


async def test_beyond_loopback_keys_are_required(tmp_path: Path) -> None:
    """A gateway that strangers can reach refuses to start without keys."""
    settings = Settings(data_dir=tmp_path, host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="set BLOSSOM_API_KEYS"):
        async with serving(settings, listen("127.0.0.1", 0)):
            pass


def test_a_taken_port_is_said() -> None:
    """Listening where something else listens says what to do."""
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}.*--port"):
            listen("127.0.0.1", port)


def test_keys_have_no_repr() -> None:
    """Settings can be logged without giving a key away."""
    assert KEY not in repr(Settings(api_keys=(KEY,)))
