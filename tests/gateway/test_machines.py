"""Gateways on machines of their own: they share a database and a bucket, and no folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import attrs
import pytest

from tests import stores
from tests.gateway.making.test_paying_kills import Shop, body_of, client, order, settled, shop
from tests.postgres import Servers


@pytest.fixture
def shared(postgres_servers: Servers) -> Iterator[dict[str, str]]:
    """What each gateway's environment says of the database and the bucket."""
    with stores.moto() as store:
        yield {
            **stores.environment(store.endpoint),
            "BLOSSOM_DATABASE_URL": postgres_servers.fresh("18"),
            "BLOSSOM_BLOBS": f"s3://{stores.BUCKET}/pictures",
            "BLOSSOM_SIGNING_SECRETS": "a-secret-that-both-gateways-know",
        }


def on_machine(at: Shop, name: str, shared: dict[str, str]) -> Shop:
    """The same shop, with a data folder of its own."""
    return attrs.evolve(at, env={**at.env, **shared, "BLOSSOM_DATA_DIR": str(at.folder / name)})


@pytest.mark.campaign
@pytest.mark.parametrize("place", ["staged", "stored"])
async def test_any_gateway_finishes_what_was_paid(place: str, tmp_path: Path, shared: dict[str, str]) -> None:
    """One is killed with the answer in the bucket. The other takes it from there, and nobody pays again."""
    async with shop(tmp_path, keyed=False) as at, client() as session:
        async with on_machine(at, "one", shared).gateway(dies_at=place) as dying:
            with pytest.raises(aiohttp.ClientError):
                await order(session, dying.base_url, "key")
            assert await dying.running.wait() == -9
        async with on_machine(at, "other", shared).gateway() as gateway:
            status, told = await settled(session, gateway.base_url, "key")
            assert status == 201
            body = await body_of(session, gateway.base_url, told["id"])
        assert hashlib.sha256(body).hexdigest() == told["sha256"]
        assert len(at.ledger.charges) == 1


@pytest.mark.campaign
async def test_a_picture_is_served_and_deleted_by_any(tmp_path: Path, shared: dict[str, str]) -> None:
    """One makes it, the other serves its bytes and removes them."""
    async with (
        shop(tmp_path, keyed=False) as at,
        client() as session,
        on_machine(at, "one", shared).gateway() as one,
        on_machine(at, "other", shared).gateway() as other,
    ):
        status, told = await order(session, one.base_url, "key")
        assert status == 201
        body = await body_of(session, other.base_url, told["id"])
        assert hashlib.sha256(body).hexdigest() == told["sha256"]
        async with session.delete(f"{other.base_url}/v1/images/{told['id']}") as deleted:
            assert deleted.status == 204
        async with session.get(f"{other.base_url}/image/{told['id']}") as gone:
            assert gone.status == 410
