"""Every fault arrives over real HTTP as it is documented, and charges what it says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from PIL import Image

from blossom_async.errors import InvalidRequest
from blossom_async.testing import FakeOpenAI, FakePollinations, Fault, FaultPlan

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
ROW = re.compile(r"^\| `(\w+)` \| (-|none|\d{3}) \| (-|none|\d{3}) \| (yes|no) \|", re.MULTILINE)
TABLE = {
    name: (pollinations, openai, charged)
    for name, pollinations, openai, charged in ROW.findall(PAGE.read_text())
}

Server = FakePollinations | FakeOpenAI
WIDTH, HEIGHT = 96, 64


@attrs.frozen
class Arrived:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def no_wait(seconds: float) -> None:
    """Stands for asyncio.sleep where a server is slow on purpose."""


def order(server: Server, prompt: str) -> Any:
    """A request for a picture."""
    if isinstance(server, FakePollinations):
        url = f"{server.base_url}/image/{prompt}?width={WIDTH}&height={HEIGHT}&seed=7"
        return aiohttp.request("GET", url)
    body = {"model": "some-model", "prompt": prompt, "size": f"{WIDTH}x{HEIGHT}", "output_format": "jpeg"}
    url = f"{server.base_url}/images/generations"
    return aiohttp.request("POST", url, json=body)


async def arrives(server: Server, fault: Fault, prompt: str = "fox") -> Arrived:
    server.fail_next(fault)
    async with order(server, prompt) as response:
        return Arrived(response.status, response.headers, await response.read())


def picture(server: Server, arrived: Arrived) -> bytes:
    if isinstance(server, FakePollinations):
        return arrived.body
    return base64.b64decode(arrived.json["data"][0]["b64_json"])


def servers_with(*faults: Fault) -> list[object]:
    return [
        pytest.param(make, fault, id=f"{make.provider}-{fault}")
        for make in (FakePollinations, FakeOpenAI)
        for fault in faults or Fault
        if fault in make.known_faults
    ]


def test_the_table_in_the_docs_has_every_fault() -> None:
    """Each fault has one row, which says which server has it and whether it charges."""
    assert set(TABLE) == set(Fault)
    for fault in Fault:
        for make, cell in zip((FakePollinations, FakeOpenAI), TABLE[fault], strict=False):
            assert (cell == "-") == (fault not in make.known_faults), fault
        assert TABLE[fault][2] == ("yes" if fault.charges else "no"), fault


HANGS = {Fault.HANG, Fault.CHARGE_THEN_HANG}


@pytest.mark.parametrize(("make", "fault"), servers_with(*sorted(set(Fault) - HANGS)))
async def test_a_fault_has_the_status_and_the_charge_of_its_row(make: type[Server], fault: Fault) -> None:
    """Over real HTTP each fault ends as its row says, and the ledger agrees with its last column."""
    status = TABLE[fault][0 if make is FakePollinations else 1]
    async with make(sleep=no_wait) as server:
        server.fail_next(fault, times=2)  # aiohttp's client repeats a GET that was reset
        if status == "none":
            with pytest.raises(aiohttp.ClientOSError):
                async with order(server, "fox"):
                    pass
        else:
            async with order(server, "fox") as response:
                assert str(response.status) == status
        assert len(server.ledger.charges) == (1 if TABLE[fault][2] == "yes" else 0)


@pytest.mark.parametrize(("make", "fault"), servers_with(*sorted(HANGS)))
async def test_a_hanging_request_is_never_answered(make: type[Server], fault: Fault) -> None:
    """Others are; it ends when the server does. Its charge is there before anybody else's."""
    async with make() as server:
        server.fail_next(fault)
        hanging = asyncio.create_task(order(server, "fox").__aenter__())
        await server.wait_for_requests(1)
        async with order(server, "owl") as response:
            assert response.status == 200
        assert not hanging.done()
        assert len(server.ledger.charges) == (2 if TABLE[fault][2] == "yes" else 1)
    with pytest.raises(aiohttp.ClientError):
        await hanging


ENVELOPE = {
    Fault.RATE_LIMITED_IP: (429, "RATE_LIMITED"),
    Fault.RATE_LIMITED_FREE_MODEL: (429, "RATE_LIMITED"),
    Fault.RATE_LIMITED_UPSTREAM: (502, "BAD_GATEWAY"),
    Fault.PAYMENT_REQUIRED: (402, "PAYMENT_REQUIRED"),
    Fault.KEY_BUDGET_EXHAUSTED: (402, "KEY_BUDGET_EXHAUSTED"),
    Fault.INSUFFICIENT_BALANCE: (402, "INSUFFICIENT_BALANCE"),
    Fault.UNAUTHORIZED: (401, "UNAUTHORIZED"),
    Fault.FORBIDDEN: (403, "FORBIDDEN"),
    Fault.CONTENT_POLICY_VIOLATION: (422, "content_policy_violation"),
    Fault.SERVER_ERROR: (500, "INTERNAL_ERROR"),
    Fault.BAD_GATEWAY: (502, "BAD_GATEWAY"),
    Fault.UNAVAILABLE: (503, "SERVICE_UNAVAILABLE"),
    Fault.GATEWAY_TIMEOUT: (504, "GATEWAY_TIMEOUT"),
    Fault.CHARGE_THEN_500: (500, "INTERNAL_ERROR"),
}


@pytest.mark.parametrize(("fault", "expected"), ENVELOPE.items(), ids=list(ENVELOPE))
async def test_pollinations_errors_stand_in_its_envelope(fault: Fault, expected: tuple[int, str]) -> None:
    """``{"success": false, "status", "error": {"code", "message", "timestamp", "requestId"}}``."""
    async with FakePollinations() as server:
        arrived = await arrives(server, fault)
    assert arrived.headers["Content-Type"] == "application/json"
    assert arrived.json["success"] is False
    assert (arrived.json["status"], arrived.json["error"]["code"]) == expected
    assert arrived.json["error"].keys() >= {"message", "timestamp", "requestId"}


async def test_the_limit_for_an_address_names_it_and_no_time() -> None:
    """Shape a: the message says "from this IP", and nothing says how long to wait."""
    async with FakePollinations() as server:
        arrived = await arrives(server, Fault.RATE_LIMITED_IP)
    assert "Too many requests from this IP" in arrived.json["error"]["message"]
    assert "Retry-After" not in arrived.headers


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.RATE_LIMITED_KEY, "Use secret keys (sk_*)"),
        (Fault.RATE_LIMITED_COMMUNITY, "for this community model"),
    ],
)
async def test_limits_for_keys_and_community_models_give_the_time_twice(fault: Fault, words: str) -> None:
    """Shapes b and c: ``retryAfterSeconds`` exact, ``Retry-After`` rounded up."""
    async with FakePollinations(retry_after_s=2.5) as server:
        arrived = await arrives(server, fault)
    assert arrived.json.keys() == {"error", "message", "retryAfterSeconds"}
    assert arrived.json["error"] == "Rate limit exceeded"
    assert words in arrived.json["message"]
    assert arrived.json["retryAfterSeconds"] == 2.5
    assert arrived.headers["Retry-After"] == "3"


async def test_the_limit_for_unpaid_accounts_is_one_second() -> None:
    """Shape d: ``concurrency_limit_exceeded`` and ``Retry-After: 1``, whatever other limits say."""
    async with FakePollinations(retry_after_s=9) as server:
        arrived = await arrives(server, Fault.RATE_LIMITED_CONCURRENCY)
    assert arrived.json["error"] == "concurrency_limit_exceeded"
    assert arrived.headers["Retry-After"] == "1"


async def test_the_limit_for_free_models_is_in_the_envelope_with_a_time() -> None:
    """Shape e: one request per IP every 45 seconds, and ``Retry-After``."""
    async with FakePollinations(retry_after_s=45) as server:
        arrived = await arrives(server, Fault.RATE_LIMITED_FREE_MODEL)
    assert "limited to one request per IP every 45 seconds" in arrived.json["error"]["message"]
    assert arrived.headers["Retry-After"] == "45"


async def test_the_legacy_queue_answers_429_with_all_its_fields() -> None:
    """Shape f: "Queue full for IP", ``X-Error-Type``, no hint how long."""
    async with FakePollinations() as server:
        arrived = await arrives(server, Fault.RATE_LIMITED_QUEUE_429)
    assert arrived.json.keys() == {
        "error", "message", "details", "debug", "timingInfo", "requestId", "requestParameters", "queueInfo",
    }  # fmt: skip
    assert arrived.json["error"] == arrived.headers["X-Error-Type"] == "Too Many Requests"
    assert arrived.json["message"].startswith("Queue full for IP: ")
    assert arrived.json["requestParameters"]["prompt"] == "fox"
    assert "Retry-After" not in arrived.headers


@pytest.mark.parametrize(
    ("fault", "queue"), [(Fault.RATE_LIMITED_QUEUE_402, True), (Fault.PAYMENT_REQUIRED_X402, False)]
)
async def test_x402_is_a_rate_limit_only_where_it_says_so(fault: Fault, queue: bool) -> None:
    """Shape g and the bill differ in nothing but the words "Queue full"."""
    async with FakePollinations() as server:
        arrived = await arrives(server, fault)
    assert arrived.json["x402Version"] == 1
    assert arrived.json["error"].startswith("Queue full for IP: ") is queue
    assert arrived.json["accepts"][0].keys() >= {"scheme", "network", "maxAmountRequired", "resource"}


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.PLACEHOLDER))
async def test_the_placeholder_is_a_picture_known_by_its_hash(make: type[Server], fault: Fault) -> None:
    """Shape h: status 200, a picture that opens, the same bytes for everybody on every machine."""
    async with make() as server:
        for prompt in ("fox", "owl"):
            data = picture(server, await arrives(server, fault, prompt))
            assert hashlib.sha256(data).hexdigest() == server.placeholder_sha256
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert server.placeholder_sha256 == "94d92eb84037410856c620fb475f975a629f5edf3cf3b2750ecc058576ef9a96"


async def test_a_limit_of_the_provider_behind_is_502_with_its_status() -> None:
    """Shape i: ``details.upstreamStatus`` is 429."""
    async with FakePollinations() as server:
        arrived = await arrives(server, Fault.RATE_LIMITED_UPSTREAM)
    assert arrived.json["error"]["details"]["upstreamStatus"] == 429


async def test_a_safety_block_of_pollinations_has_a_type() -> None:
    """400 with ``error.type`` ``safety_error``."""
    async with FakePollinations() as server:
        arrived = await arrives(server, Fault.SAFETY_BLOCKED)
    assert arrived.json["error"]["type"] == "safety_error"


OPENAI = {
    Fault.RATE_LIMITED: "rate_limit_exceeded",
    Fault.INSUFFICIENT_QUOTA: "insufficient_quota",
    Fault.UNAUTHORIZED: "invalid_api_key",
    Fault.FORBIDDEN: "model_not_found",
    Fault.SAFETY_BLOCKED: "moderation_blocked",
    Fault.CONTENT_POLICY_VIOLATION: "content_policy_violation",
    Fault.SERVER_ERROR: None,
    Fault.BAD_GATEWAY: None,
    Fault.UNAVAILABLE: None,
    Fault.GATEWAY_TIMEOUT: None,
    Fault.CHARGE_THEN_500: None,
}


@pytest.mark.parametrize(("fault", "code"), OPENAI.items(), ids=list(OPENAI))
async def test_openai_errors_have_four_fields(fault: Fault, code: str | None) -> None:
    """``{"error": {"message", "type", "param", "code"}}``."""
    async with FakeOpenAI() as server:
        arrived = await arrives(server, fault)
    assert arrived.json["error"].keys() == {"message", "type", "param", "code"}
    assert arrived.json["error"]["code"] == code


async def test_openais_rate_limit_says_when_to_come_back() -> None:
    """In seconds rounded up, in milliseconds, and that a retry makes sense."""
    async with FakeOpenAI(retry_after_s=1.25) as server:
        headers = (await arrives(server, Fault.RATE_LIMITED)).headers
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-should-retry"]) == (
        "2",
        "1250",
        "true",
    )


@pytest.mark.parametrize(("fault", "field"), [(Fault.BARE_DETAIL, "detail"), (Fault.BARE_MESSAGE, "message")])
async def test_other_servers_errors_are_bare(fault: Fault, field: str) -> None:
    """One field and no ``error`` around it."""
    async with FakeOpenAI() as server:
        assert (await arrives(server, fault)).json.keys() == {field}


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.EDGE_524, Fault.EDGE_530, Fault.HTML_200))
async def test_the_edge_does_not_speak_json(make: type[Server], fault: Fault) -> None:
    """A page of HTML, or the bare text of error 1033."""
    async with make() as server:
        arrived = await arrives(server, fault)
    if fault is Fault.EDGE_530:
        assert arrived.body == b"error code: 1033"
    else:
        assert arrived.headers["Content-Type"].startswith("text/html")
        assert arrived.body.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.SVG_AS_PNG, Fault.JSON_AS_JPEG))
async def test_what_is_no_picture_is_said_to_be_one(make: type[Server], fault: Fault) -> None:
    """The bytes are SVG or JSON; at Pollinations the header says PNG or JPEG."""
    async with make() as server:
        arrived = await arrives(server, fault)
        data = picture(server, arrived)
    assert data.startswith(b"<svg" if fault is Fault.SVG_AS_PNG else b"{")
    if make is FakePollinations:
        assert arrived.headers["Content-Type"] == ("image/png" if fault is Fault.SVG_AS_PNG else "image/jpeg")


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.TRUNCATED))
async def test_a_truncated_picture_arrives_whole_and_does_not_open(make: type[Server], fault: Fault) -> None:
    """The length is right, the header is that of a picture of the right size, the rest is missing."""
    async with make() as server:
        cut = Image.open(io.BytesIO(picture(server, await arrives(server, fault))))
    assert cut.size == (WIDTH, HEIGHT)
    with pytest.raises(OSError, match="truncated"):
        cut.load()


@pytest.mark.parametrize("format_", ["png", "webp"])
async def test_a_truncated_picture_does_not_open_in_any_format(format_: str) -> None:
    """PNG and WebP are cut as well as JPEG."""
    body = {"model": "gpt-image-2", "prompt": "fox", "size": "256x128", "output_format": format_}
    async with FakeOpenAI() as server:
        server.fail_next(Fault.TRUNCATED)
        async with aiohttp.request("POST", f"{server.base_url}/images/generations", json=body) as response:
            data = base64.b64decode((await response.json())["data"][0]["b64_json"])
    with pytest.raises((OSError, SyntaxError)):
        Image.open(io.BytesIO(data)).load()


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.CLOSED_EARLY))
async def test_a_connection_closed_early_breaks_the_promised_length(make: type[Server], fault: Fault) -> None:
    """Half of the body arrives, and then the end."""
    async with make() as server:
        with pytest.raises(aiohttp.ClientPayloadError):
            await arrives(server, fault)


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.EMPTY_BODY))
async def test_an_empty_body_is_empty(make: type[Server], fault: Fault) -> None:
    """``Content-Length: 0`` under a status of 200."""
    async with make() as server:
        arrived = await arrives(server, fault)
    assert arrived.headers["Content-Length"] == "0"


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.TINY, Fault.WRONG_SIZE))
async def test_pictures_of_another_size_open(make: type[Server], fault: Fault) -> None:
    """They are good pictures, of a size that nobody asked for."""
    async with make() as server:
        found = Image.open(io.BytesIO(picture(server, await arrives(server, fault))))
    found.load()
    assert found.size == ((1, 1) if fault is Fault.TINY else (WIDTH + 16, HEIGHT // 2))


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.SAME_BYTES))
async def test_the_same_bytes_come_for_different_prompts(make: type[Server], fault: Fault) -> None:
    """Without the fault they differ."""
    async with make() as server:
        same = [picture(server, await arrives(server, fault, prompt)) for prompt in ("fox", "owl")]
        server.clear()
        differ = []
        for prompt in ("bat", "elk"):
            async with order(server, prompt) as response:
                arrived = Arrived(response.status, response.headers, await response.read())
            differ.append(picture(server, arrived))
    assert same[0] == same[1]
    assert differ[0] != differ[1]


@pytest.mark.parametrize(("fault", "data"), [(Fault.DATA_MISSING, None), (Fault.DATA_EMPTY, [])])
async def test_openais_answer_may_lack_its_data(fault: Fault, data: object) -> None:
    """``data`` is missing, or an empty list; the rest is there."""
    async with FakeOpenAI() as server:
        answer = (await arrives(server, fault)).json
    assert "created" in answer
    assert answer.get("data") == data


@pytest.mark.parametrize(("make", "fault"), servers_with(Fault.SLOW_DRIP, Fault.SLOW_FIRST_BYTE))
async def test_slow_answers_wait_as_often_and_as_long_as_they_say(make: type[Server], fault: Fault) -> None:
    """``slow_s`` for each byte, or once; the answer itself is good."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    async with make(slow_s=3.5, sleep=note) as server:
        arrived = await arrives(server, fault)
    Image.open(io.BytesIO(picture(server, arrived))).load()
    assert waits == [3.5] * (len(arrived.body) if fault is Fault.SLOW_DRIP else 1)


async def test_what_was_charged_and_reset_is_in_the_cache_of_pollinations() -> None:
    """The repeat of a request whose answer was lost brings the picture and costs nothing."""
    async with FakePollinations() as server:
        server.fail_next(Fault.CHARGE_THEN_RESET)
        async with order(server, "fox") as response:  # which aiohttp's client repeats by itself
            assert (response.status, response.headers["X-Cache"]) == (200, "HIT")
        assert len(server.requests) == 2
        assert len(server.ledger.charges) == 1


async def test_what_was_charged_and_lost_with_a_500_is_charged_again() -> None:
    """Nothing was kept, so the repeat is a new picture."""
    async with FakePollinations() as server:
        await arrives(server, Fault.CHARGE_THEN_500)
        async with order(server, "fox") as response:
            assert (response.status, response.headers["X-Cache"]) == (200, "MISS")
        assert len(server.ledger.charges) == 2


async def test_the_queue_comes_before_the_standing_faults() -> None:
    """``fail_next`` says what comes next, ``fail`` what comes otherwise, ``clear`` ends both."""
    async with FakeOpenAI() as server:
        server.fail("server_error")
        server.fail_next("edge_530", times=2)
        statuses = []
        for _ in range(3):
            async with order(server, "fox") as response:
                statuses.append(response.status)
        server.fail_next("edge_530")
        server.clear()
        async with order(server, "fox") as response:
            statuses.append(response.status)
    assert statuses == [530, 530, 500, 200]


def test_the_same_seed_gives_the_same_faults() -> None:
    """Two plans with one seed agree, another seed does not, and the share is about the probability."""

    def drawn(seed: int) -> list[Fault | None]:
        plan = FaultPlan(frozenset(Fault))
        plan.add(Fault.RESET, probability=0.2, seed=seed)
        return [plan.take() for _ in range(1000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 150 < drawn(1).count(Fault.RESET) < 250


@pytest.mark.parametrize(
    "wrong",
    [
        lambda server: server.fail_next("data_empty"),
        lambda server: server.fail("rate_limitd_ip"),
        lambda server: server.fail_next("reset", times=0),
        lambda server: server.fail("reset", probability=1.5),
    ],
)
async def test_a_plan_that_cannot_be_carried_out_is_refused(wrong: Any) -> None:
    """Unknown faults, those of another provider, no times, and no probability."""
    with pytest.raises(InvalidRequest):
        wrong(FakePollinations())
