"""Real pictures end to end: a gateway in front of fake services that fail as the real ones do."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from PIL import Image

from blossom_async import BlossomClient, Conflict, Overloaded, PaymentRequired, ProviderFailed, TimedOut
from blossom_async.errors import ConfigurationError
from blossom_async.testing import FakeOpenAI, FakePollinations
from tests.conftest import KEY, RunningGateway, running_gateway

ACCOUNT = "sk-of-the-tests-0123456789"
SMALL: dict[str, Any] = {"width": 256, "height": 256}


def openai_settings(service: FakeOpenAI, **more: Any) -> dict[str, Any]:
    return {
        "providers": ("openai",),
        "openai_url": service.base_url,
        "openai_key": ACCOUNT,
        "openai_model": "flux.1-schnell",
        **more,
    }


@asynccontextmanager
async def drawing(
    folder: Path, *, keyed: bool = False, **more: Any
) -> AsyncIterator[tuple[FakeOpenAI, RunningGateway, BlossomClient]]:
    async with FakeOpenAI(api_key=ACCOUNT, keyed=keyed) as service:
        settings = openai_settings(service, openai_keyed=keyed, **more)
        async with running_gateway(folder, **settings) as running:
            async with running.client(retry=None) as client:
                yield service, running, client


async def picture(url: str) -> tuple[int, Image.Image | None]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        body = await response.read()
        if response.status != 200:
            return response.status, None
        return 200, Image.open(io.BytesIO(body))


async def test_a_picture_of_an_openai_compatible_server(tmp_path: Path) -> None:
    """Charged once, stored here, in the exact size and format that was asked for."""
    async with drawing(tmp_path) as (service, _, client):
        info = await client.image.generate_url_with_info(
            "a lake", width=300, height=200, format="webp", expires_in=60
        )
        assert (info.provider, info.width, info.height, info.state) == ("openai", 300, 200, "ready")
        status, image = await picture(info.url)
        assert status == 200
        assert image is not None
        assert (image.format, image.size) == ("WEBP", (300, 200))
        assert len(service.ledger.charges) == 1


async def test_a_picture_of_pollinations(tmp_path: Path) -> None:
    """The same from the other service; the key is in no URL."""
    async with FakePollinations(api_key=ACCOUNT) as service:
        settings = {
            "providers": ("pollinations",),
            "pollinations_url": service.base_url,
            "pollinations_key": ACCOUNT,
        }
        async with running_gateway(tmp_path, **settings) as running, running.client() as client:
            info = await client.image.generate_url_with_info("a lake", **SMALL)
            assert info.provider == "pollinations"
            assert (await picture(info.url))[0] == 200
        assert len(service.ledger.charges) == 1
        assert not [request for request in service.requests if ACCOUNT in request.path]


async def test_the_openai_client_prints_a_url_of_ours_that_opens(tmp_path: Path) -> None:
    """Through the front door, with a real provider behind it."""
    async with drawing(tmp_path) as (_, running, _client):
        async with openai.AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key=KEY) as front:
            answer = await front.images.generate(
                model="flux.1-schnell", prompt="a lake", size="256x256", response_format="url"
            )
            assert answer.data is not None
            url = answer.data[0].url or ""
            assert url.startswith(f"{running.base_url}/image/")
            assert (await picture(url))[0] == 200


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("rate_limited", Overloaded, "overloaded"),
        ("insufficient_quota", PaymentRequired, "provider_out_of_funds"),
        ("unauthorized", ProviderFailed, "provider_unauthorized"),
        ("truncated", ProviderFailed, "provider_bad_content"),
        ("tiny", ProviderFailed, "provider_bad_content"),
        ("charge_then_500", Conflict, "outcome_unknown"),
        ("charge_then_reset", Conflict, "outcome_unknown"),
    ],
)
async def test_each_failure_is_told_apart(
    fault: str, error: type[Exception], code: str, tmp_path: Path
) -> None:
    """The caller learns what it was; nothing is stored under a URL."""
    async with drawing(tmp_path) as (service, running, client):
        service.fail_next(fault)
        with pytest.raises(error) as refused:
            await client.image.generate_url("a lake", **SMALL)
        assert getattr(refused.value, "code", None) == code
        assert ACCOUNT not in str(refused.value)
        assert not list((running.data_dir / "images").rglob("*.png"))


async def test_the_next_provider_is_asked(tmp_path: Path) -> None:
    """An account without money fails over, and the answer says who served."""
    async with FakeOpenAI(api_key=ACCOUNT) as service:
        settings = openai_settings(service, providers=("openai", "offline"))
        async with running_gateway(tmp_path, **settings) as running, running.client() as client:
            service.fail_next("insufficient_quota")
            info = await client.image.generate_url_with_info("a lake", **SMALL)
            assert info.provider == "offline"
            assert service.ledger.total == Decimal(0)


class TestDeferred:
    async def test_the_url_waits_for_its_picture(self, tmp_path: Path) -> None:
        """At once 202 and a URL; the first viewer waits, and gets the picture."""
        async with drawing(tmp_path) as (service, _, client):
            with service.held():
                info = await client.image.generate_url_with_info("a lake", defer=True, **SMALL)
                assert (info.state, info.file_size) == ("pending", 0)
                viewer = asyncio.create_task(picture(info.url))
                await service.wait_for_requests(1)
                assert not viewer.done()
            assert (await viewer)[0] == 200

    async def test_its_owner_waits_for_it(self, tmp_path: Path) -> None:
        """Until it is ready, or for as long as allowed; a failure raises with its code."""
        async with drawing(tmp_path) as (service, _, client):
            with service.held():
                url = await client.image.generate_url("a lake", defer=True, **SMALL)
                with pytest.raises(TimedOut, match=r"still being made after 0\.05 s"):
                    await client.image.wait(url, timeout_s=0.05)
                waiting = asyncio.create_task(client.image.wait(url))
            assert (await waiting).state == "ready"
            service.fail_next("content_policy_violation")
            url = await client.image.generate_url("a lake", defer=True, **SMALL)
            with pytest.raises(ProviderFailed, match="change the prompt") as caught:
                await client.image.wait(url)
            assert caught.value.code == "content_refused"

    async def test_a_viewer_does_not_wait_for_ever(self, tmp_path: Path) -> None:
        """After the bound it is told to come back."""
        async with drawing(tmp_path, defer_wait_s=0) as (service, _, client):
            with service.held():
                info = await client.image.generate_url_with_info("a lake", defer=True, **SMALL)
                async with aiohttp.ClientSession() as session, session.get(info.url) as response:
                    assert response.status == 202
                    assert response.headers["Retry-After"] == "2"
                    assert response.headers["Cache-Control"] == "no-store"

    async def test_a_failure_is_a_typed_answer_at_the_url(self, tmp_path: Path) -> None:
        """And in the picture's state, for its owner."""
        async with drawing(tmp_path) as (service, running, client):
            service.fail_next("content_policy_violation")
            info = await client.image.generate_url_with_info("a lake", defer=True, **SMALL)
            async with aiohttp.ClientSession() as session:
                async with session.get(info.url) as response:
                    assert response.status == 422
                    assert (await response.json())["code"] == "content_refused"
                headers = {"Authorization": f"Bearer {KEY}"}
                path = f"{running.base_url}/v1/images/{info.id}"
                async with session.get(path, headers=headers) as response:
                    told = await response.json()
                    assert told["state"] == "failed"
                    assert "change the prompt" in told["problem"]
                async with session.delete(path, headers=headers) as response:
                    assert response.status == 204
                async with session.get(info.url) as response:
                    assert response.status == 404

    async def test_the_rules_hold_before_the_picture_is_there(self, tmp_path: Path) -> None:
        """Nobody learns of a restricted picture by asking early."""
        async with drawing(tmp_path, defer_wait_s=0) as (service, _, client):
            with service.held():
                info = await client.image.generate_url_with_info(
                    "a lake", defer=True, require_auth=True, **SMALL
                )
                assert (await picture(info.url))[0] == 401
                signed = await client.image.generate_signed_url("a lake", defer=True, **SMALL)
                assert (await picture(signed.partition("?")[0]))[0] == 403
                assert (await picture(signed))[0] == 202
                again = await client.image.sign_url(signed)
                assert (await picture(again))[0] == 202

    async def test_a_picture_that_is_finished_between_two_looks_is_there(self, tmp_path: Path) -> None:
        """A viewer who comes at that very moment gets it, too."""
        async with drawing(tmp_path) as (_, _running, client):
            for number in range(30):
                info = await client.image.generate_url_with_info(f"view {number}", defer=True, **SMALL)
                answers = await asyncio.gather(*(picture(info.url) for _ in range(5)))
                assert {status for status, _ in answers} == {200}

    async def test_a_batch_fills_a_page_with_urls(self, tmp_path: Path) -> None:
        """All URLs are there before any picture is."""
        async with drawing(tmp_path) as (service, _, client):
            with service.held():
                batch = await client.image.generate_urls_batch(
                    [f"view {number}" for number in range(50)], defer=True, **SMALL
                )
                assert None not in batch
                assert {info.state for info in batch.infos if info} == {"pending"}
            assert {status for status, _ in await asyncio.gather(*map(picture, map(str, batch)))} == {200}


class TestSettings:
    async def test_a_provider_needs_its_model(self, tmp_path: Path) -> None:
        """Said at the start, not at the first picture."""
        with pytest.raises(ConfigurationError, match="set BLOSSOM_OPENAI_MODEL"):
            async with running_gateway(tmp_path, providers=("openai",)):
                pass

    async def test_a_key_can_stand_in_a_file(self, tmp_path: Path) -> None:
        """And not in both places."""
        file = tmp_path / "key"
        file.write_text(f"{ACCOUNT}\n")
        async with FakeOpenAI(api_key=ACCOUNT) as service:
            settings = openai_settings(service, openai_key=None, openai_key_file=file)
            async with running_gateway(tmp_path / "a", **settings) as running, running.client() as client:
                await client.image.generate_url("a lake", **SMALL)
            both = openai_settings(service, openai_key_file=file)
            with pytest.raises(ConfigurationError, match="are both set; keep one"):
                async with running_gateway(tmp_path / "b", **both):
                    pass

    async def test_a_budget_that_cannot_be_kept(self, tmp_path: Path) -> None:
        """A picture whose price nobody knows is refused before it is sent."""
        async with FakeOpenAI(api_key=ACCOUNT) as service:
            settings = openai_settings(service, daily_budget=1.0)
            async with running_gateway(tmp_path, **settings) as running:
                async with running.client(retry=None) as client:
                    with pytest.raises(PaymentRequired, match="is not known"):
                        await client.image.generate_url("a lake", width=1024, height=1024)
            assert not service.ledger.charges
