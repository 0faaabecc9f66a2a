"""A bucket that cannot be used is refused at start, and one that goes away later is noticed."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.storage.bucket import BucketBlobs
from tests import stores

URL = f"s3://{stores.BUCKET}/pictures"
ID = "Ab3" + "x" * 19
SECRET = stores.environment("")["AWS_SECRET_ACCESS_KEY"]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with stores.moto() as store:
        yield store.endpoint


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says in the environment where the store is."""

    def at(endpoint: str) -> None:
        for name, value in stores.environment(endpoint).items():
            monkeypatch.setenv(name, value)

    return at


@asynccontextmanager
async def answering(handler: Callable[[web.BaseRequest], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """The address of a store that answers like this."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def stranger(_: web.BaseRequest) -> web.Response:
    """An answer that no store gives."""
    return web.Response(text="Good day")


async def deleted(request: web.BaseRequest) -> web.Response:
    """What a store says of an object that it has deleted."""
    if request.method == "DELETE":  # as older releases of obstore send it
        return web.Response(status=204)
    (key,) = re.findall("<Key>(.*)</Key>", await request.text())
    return web.Response(text=f"<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>")


async def refusal(url: str = URL) -> str:
    """Why it cannot be used."""
    blobs = BucketBlobs(url, "images")
    with pytest.raises(ConfigurationError) as caught:
        await blobs.open()
    await blobs.close()
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert stores.environment("")["AWS_ACCESS_KEY_ID"] not in shown
    return str(caught.value)


async def test_no_such_bucket(moto: str, at: Callable[[str], None]) -> None:
    """It is said, and named."""
    at(moto)
    told = await refusal("s3://nothing/here")
    assert told == (
        "blobs=s3://nothing/here cannot be used (NoSuchBucket). "
        "There is no such bucket: create it, or correct the name."
    )


async def test_nobody_answers(at: Callable[[str], None]) -> None:
    """The network is to be checked, and the address."""
    async with answering(stranger) as endpoint:
        pass
    at(endpoint)
    assert (await refusal()).endswith(
        "(no answer). No store answered: check the network, and AWS_ENDPOINT_URL for a store of your own."
    )


async def test_something_else_answers(at: Callable[[str], None]) -> None:
    """It is not called a matter of credentials."""
    async with answering(stranger) as endpoint:
        at(endpoint)
        assert (await refusal()).endswith(". What answers is no store of this kind: check its address.")


async def test_refused_credentials(at: Callable[[str], None]) -> None:
    """The variables are named. What the store says of the key and the signature is not repeated."""

    async def refuse(_: web.BaseRequest) -> web.Response:
        told = stores.environment("")
        body = f"""<Error><Code>SignatureDoesNotMatch</Code>
            <AWSAccessKeyId>{told["AWS_ACCESS_KEY_ID"]}</AWSAccessKeyId><Message>{SECRET}</Message></Error>"""
        return web.Response(status=403, text=body)

    async with answering(refuse) as endpoint:
        at(endpoint)
        assert (await refusal()).endswith(
            "(SignatureDoesNotMatch). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment "
            "to credentials that may read, write, list and delete there."
        )


async def test_a_store_refuses_another_secret(
    tmp_path: Path, at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SeaweedFS says it."""
    with stores.seaweedfs(tmp_path / "weed") as store:
        at(store.endpoint)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
        assert "(SignatureDoesNotMatch). Set AWS_ACCESS_KEY_ID and" in await refusal()


async def test_no_credentials(at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the environment nor from the machine."""

    async def unknown(_: web.BaseRequest) -> web.Response:
        return web.Response(status=404)

    async with answering(unknown) as endpoint:
        at(endpoint)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", endpoint)
        assert "(no usable credentials). Set AWS_ACCESS_KEY_ID and " in await refusal()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("az://container/pictures", "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in"),
        ("gs://bucket/pictures", "Set GOOGLE_APPLICATION_CREDENTIALS in"),
    ],
)
async def test_no_account(monkeypatch: pytest.MonkeyPatch, url: str, told: str) -> None:
    """Each kind of store has variables of its own."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "not there.json")
    assert told in await refusal(url)


async def test_a_store_that_lets_the_second_writer_win(at: Callable[[str], None]) -> None:
    """It ignores If-None-Match, so that gateways would overwrite each other's pictures."""
    kept: dict[str, bytes] = {}

    async def careless(request: web.BaseRequest) -> web.Response:
        if request.method == "PUT":
            kept[request.path] = await request.read()
            return web.Response(headers={"ETag": '"x"'})
        return await deleted(request)

    async with answering(careless) as endpoint:
        at(endpoint)
        assert "ignores the header If-None-Match" in await refusal()
    assert [*kept.values()] == [b"second"]


async def test_a_store_that_refuses_to_let_the_second_writer_lose(at: Callable[[str], None]) -> None:
    """It has not implemented If-None-Match, and says so."""

    async def frank(request: web.BaseRequest) -> web.Response:
        if "If-None-Match" in request.headers:
            return web.Response(status=501, text="<Error><Code>NotImplemented</Code></Error>")
        if request.method == "PUT":
            return web.Response(headers={"ETag": '"x"'})
        return await deleted(request)

    async with answering(frank) as endpoint:
        at(endpoint)
        assert re.search("answers (NotImplemented|HTTP 501) to the header If-None-Match", await refusal())


async def test_old_versions_are_warned_of(
    moto: str, at: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """What is deleted stays in a bucket that keeps them."""
    at(moto)
    stores.keep_versions(moto, "versions")
    for url, warned in ((URL, False), ("s3://versions/pictures", True)):
        caplog.clear()
        blobs = BucketBlobs(url, "images")
        with caplog.at_level(logging.WARNING, "blossom_async"):
            await blobs.open()
        await blobs.close()
        assert ("the bucket keeps old versions" in caplog.text) is warned


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "pip install '.[object-store]' in the checkout" in await refusal()
