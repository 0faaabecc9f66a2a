"""``BlossomClient`` against a real gateway, in its coroutine and its blocking form."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import blossom_async
from blossom_async import (
    BlossomClient,
    ConfigurationError,
    Gone,
    ImageRequest,
    InvalidRequest,
    NotFound,
    Progress,
    RetryPolicy,
    ServerFailed,
    TransportError,
    Unauthenticated,
    UrlBatch,
)
from blossom_async.blocking import BlockingImages, LoopThread
from tests.conftest import RunningGateway
from tests.scarcity import no_files_left
from tests.waiting import LIMIT_S

Gateway = AbstractAsyncContextManager[RunningGateway]
PACKAGE = Path(blossom_async.__file__).parent
TINY: dict[str, Any] = {"width": 32, "height": 32}
PROMPTS = [
    "sunset over ocean",
    "forest in autumn",
    "city skyline at night",
    "mountain landscape",
    "flower garden",
]


async def fetch(url: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, response.content_type, await response.read()


async def test_generate_url_gives_a_url_that_opens(gateway: Gateway) -> None:
    """The picture exists when the call returns."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url(prompt="a beautiful sunset over mountains", **TINY)
        status, kind, data = await fetch(url)
    assert (status, kind) == (200, "image/png")
    assert data.startswith(b"\x89PNG")


async def test_generate_url_with_info_tells_size_and_format(gateway: Gateway) -> None:
    """The guide's fields are there, and file_size is the size of what the URL serves."""
    async with gateway as running, running.client() as client:
        result = await client.image.generate_url_with_info(
            prompt="professional headshot", quality="hd", format="webp", width=64, height=32
        )
        _, kind, data = await fetch(result.url)
    assert (result.width, result.height, result.format, result.quality) == (64, 32, "webp", "hd")
    assert (kind, len(data)) == ("image/webp", result.file_size)


async def test_expiry_is_told_and_kept(gateway: Gateway) -> None:
    """``expires_at`` and ``time_remaining`` follow ``expires_in``."""
    async with gateway as running, running.client() as client:
        result = await client.image.generate_url_with_info(prompt="test image", expires_in=86_400, **TINY)
        endless = await client.image.generate_url_with_info(prompt="test image", **TINY)
    assert result.expires_at is not None
    assert (result.expires_at - result.created_at).total_seconds() == 86_400
    assert result.time_remaining is not None
    assert 86_300 < result.time_remaining <= 86_400
    assert (endless.expires_at, endless.time_remaining) == (None, None)


async def test_batch_keeps_the_order(gateway: Gateway) -> None:
    """URLs come in the order of the prompts, whichever was ready first."""
    sizes = [16, 512, 32, 256, 64, 128]
    async with gateway as running, running.client() as client:
        urls = await client.image.generate_urls_batch_custom(
            [{"prompt": f"a lake {size}", "width": size} for size in sizes], height=16
        )
        assert isinstance(urls, UrlBatch)
        assert [info and info.width for info in urls.infos] == sizes
        assert [info and info.url for info in urls.infos] == list(urls)
    assert urls.cost == len(sizes)
    assert urls[1:3] == list(urls)[1:3]


async def test_a_failed_item_loses_no_other(gateway: Gateway) -> None:
    """A bad prompt is None in its place, with its error in the outcome."""
    async with gateway as running, running.client() as client:
        urls = await client.image.generate_urls_batch(["a lake", "", "a forest", "x" * 40_000], **TINY)
    assert [url is None for url in urls] == [False, True, False, True]
    assert [failure.index for failure in urls.failures] == [1, 3]
    assert isinstance(urls.failures[0].error, InvalidRequest)
    with pytest.raises(ExceptionGroup) as caught:
        urls.raise_for_failures()
    assert "item 1: ''" in caught.value.exceptions[0].__notes__


async def test_requests_that_fail_midway_hand_over_the_urls_made_before(gateway: Gateway) -> None:
    """With the exception, as a batch and in its note."""

    def rows() -> Iterator[str]:
        yield from (f"fox {number}" for number in range(12))
        raise ConnectionError("the cursor was closed")

    async with gateway as running, running.client() as client:
        with pytest.raises(ConnectionError, match="the cursor was closed") as caught:
            await client.image.generate_urls_batch(rows(), width=16, height=16)
    batch = caught.value.result  # type: ignore[attr-defined]
    assert isinstance(batch, UrlBatch)
    assert len(batch) == 12
    assert None not in batch
    note = caught.value.__notes__[-1]
    assert note.startswith("pictures made before that: ")
    assert note.endswith(" and 2 more")
    assert str(batch[9]) in note


async def test_bad_options_fail_the_batch_before_anything_is_sent(gateway: Gateway) -> None:
    """An option that is wrong for all is the call's error, not every item's."""
    async with gateway as running, running.client() as client:
        with pytest.raises(InvalidRequest, match="width"):
            await client.image.generate_urls_batch(PROMPTS, width=-5)
        with pytest.raises(TypeError, match="Did you mean 'height'"):
            await client.image.generate_urls_batch(PROMPTS, heigth=5)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="not one str"):
            await client.image.generate_urls_batch("sunset over ocean")
        assert not list(running.data_dir.glob("images/*/*"))


class DataFrame:
    """What a batch can see of a data frame: iterating it gives the names of its columns."""

    columns = ("prompt", "width")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


async def test_a_table_is_no_batch(gateway: Gateway) -> None:
    """The names of its columns would be drawn."""
    async with gateway as running, running.client() as client:
        with pytest.raises(TypeError, match=r"not a DataFrame.*to_dict\('records'\)"):
            await client.image.generate_urls_batch(DataFrame())
        with pytest.raises(TypeError, match="not a DataFrame"):
            async with client.image.stream_urls(DataFrame()):
                pass
        with pytest.raises(TypeError, match="not one dict"):
            await client.image.generate_urls_batch_custom({"prompt": "a fox"})
        assert not list(running.data_dir.glob("images/*/*"))


async def test_requests_win_over_defaults(gateway: Gateway) -> None:
    """Each request's own settings count first, for mappings and for ``ImageRequest``."""
    async with gateway as running, running.client() as client:
        urls = await client.image.generate_urls_batch_custom(
            requests=[
                {"prompt": "portrait", "height": 48},
                ImageRequest("landscape", width=48),
                "square",
                {"prompt": "square", "width": None, "quality": None, "height": np.float64(32)},
                {"prompt": "no such", "widht": 3},
            ],
            quality="hd",
            **TINY,
        )
    infos = [info and (info.width, info.height, info.quality) for info in urls.infos]
    assert infos == [(32, 48, "hd"), (48, 32, "hd"), (32, 32, "hd"), (32, 32, "hd"), None]
    assert isinstance(urls.failures[0].error, TypeError)


async def test_progress_counts_to_the_end(gateway: Gateway) -> None:
    """``on_progress`` sees every item end."""
    seen: list[Progress] = []
    async with gateway as running, running.client() as client:
        await client.image.generate_urls_batch([*PROMPTS, ""], on_progress=seen.append, **TINY)
    assert [progress.done + progress.failed for progress in seen] == list(range(1, 7))
    assert (seen[-1].total, seen[-1].done, seen[-1].failed, seen[-1].running) == (6, 5, 1, 0)


@pytest.mark.parametrize("ordered", [True, False])
async def test_stream_gives_every_outcome_once(gateway: Gateway, ordered: bool) -> None:
    """All items come, in input order when asked, from a lazy source too."""

    async def requests() -> Any:
        for number in range(20):
            yield {"prompt": f"a lake {number}", "width": 16 + 16 * (number % 3), "height": 16}

    async with (
        gateway as running,
        running.client() as client,
        client.image.stream_urls(requests(), ordered=ordered) as outcomes,
    ):
        seen = [outcome async for outcome in outcomes]
    indexes = [outcome.index for outcome in seen]
    assert (indexes if ordered else sorted(indexes)) == list(range(20))
    assert all(outcome.value and outcome.value.width == 16 + 16 * (outcome.index % 3) for outcome in seen)


async def test_leaving_a_stream_early_leaves_nothing_running(gateway: Gateway) -> None:
    """After ``break`` no task of the batch is left."""
    async with gateway as running, running.client() as client:
        async with client.image.stream_urls((f"a lake {n}" for n in range(1000)), **TINY) as outcomes:
            async for _ in outcomes:
                break
        assert not [task for task in asyncio.all_tasks() if "batch/engine" in repr(task)]
        assert client._images._limits.slots.in_use == 0


async def test_validate_url_tells_true_from_false(gateway: Gateway) -> None:
    """A URL that serves is valid; an unknown and a deleted one are not."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("test image", **TINY)
        assert await client.image.validate_url(url)
        assert not await client.image.validate_url(f"{running.base_url}/image/{'a' * 22}")
        assert not await client.image.validate_url(f"{running.base_url}/elsewhere")


@asynccontextmanager
async def gateway_that_gives_out(public_url: str) -> AsyncIterator[int]:
    """The port of a gateway that says so of its URLs."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"service": "blossom", "public_url": public_url})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    async with TestServer(app) as server:
        yield server.port or 0


async def test_the_gateways_own_urls_are_reached_wherever_they_are(gateway: Gateway) -> None:
    """Pictures may be served under another address than the API, and a private one."""
    async with gateway as pictures, pictures.client() as client:
        url = await client.image.generate_url("test image", **TINY)
        async with gateway_that_gives_out(pictures.base_url) as port:
            async with BlossomClient(f"http://127.0.0.1:{port}", api_key="k") as other:
                assert await other.image.validate_url(url)
                assert not (await other.image.preload_urls([url])).failures


async def test_another_machines_loopback_is_not_this_one(gateway: Gateway) -> None:
    """What a remote gateway calls its own at 127.0.0.1 would lead to something else here."""

    class Resolver(aiohttp.abc.AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[aiohttp.abc.ResolveResult]:
            return [
                aiohttp.abc.ResolveResult(
                    hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0
                )
            ]

        async def close(self) -> None:
            pass

    connector = aiohttp.TCPConnector(resolver=Resolver())
    async with gateway as here, gateway_that_gives_out(here.base_url) as port:
        async with aiohttp.ClientSession(connector=connector) as session:
            remote = BlossomClient(f"http://gateway.example:{port}", api_key="k", session=session)
            with pytest.raises(TransportError, match="not a public address"):
                await remote.image.validate_url(f"{here.base_url}/image/{'a' * 22}")
            await remote.aclose()


async def test_an_outage_is_not_invalid(gateway: Gateway) -> None:
    """When nobody answers, ``validate_url`` raises instead of saying False."""
    async with gateway as running:
        async with running.client() as client:
            url = await client.image.generate_url("test image", **TINY)
        offline = running.client()
    try:
        with pytest.raises(TransportError):
            await offline.image.validate_url(url)
    finally:
        await offline.aclose()


async def test_regenerate_from_any_form_of_url(gateway: Gateway) -> None:
    """Plain, CDN and signed forms lead to the same request; the new picture has the same bytes."""
    async with gateway as running, running.client(cdn_prefix="https://cdn.myapp.com") as client:
        info = await client.image.generate_url_with_info("test image", **TINY)
        _, _, original = await fetch(info.url)
        for url in (
            info.url,
            f"https://cdn.myapp.com/generated/{info.id}.png",
            f"{info.url}?exp=1&sig=2",
            f"https://other.example/prefix/image/{info.id}#top",
        ):
            new_url = await client.image.regenerate_from_url(url)
            assert new_url != info.url
            assert (await fetch(new_url))[2] == original
        varied = await client.image.regenerate_from_url(info.url, seed=np.int64(1), format="jpg")  # type: ignore[arg-type]
        assert (await fetch(varied))[1] == "image/jpeg"


async def test_regenerate_says_what_it_cannot_do(gateway: Gateway) -> None:
    """No id, an unknown id, a bad override: each its own error."""
    async with gateway as running, running.client() as client:
        with pytest.raises(InvalidRequest, match="url"):
            await client.image.regenerate_from_url("https://example.com/cat.png")
        with pytest.raises(NotFound):
            await client.image.regenerate_from_url(f"https://example.com/image/{'a' * 22}")
        with pytest.raises(InvalidRequest, match="width"):
            await client.image.regenerate_from_url(f"https://example.com/image/{'a' * 22}", width=1)


async def test_custom_cdn_puts_urls_under_the_prefix(gateway: Gateway) -> None:
    """The path under the prefix is one the gateway serves."""
    async with gateway as running, running.client(cdn_prefix="https://cdn.myapp.com/") as client:
        url = await client.image.generate_url("test image", use_custom_cdn=True, format="jpg", **TINY)
        assert url.startswith("https://cdn.myapp.com/generated/")
        assert url.endswith(".jpg")
        status, kind, _ = await fetch(url.replace("https://cdn.myapp.com", running.base_url))
    assert (status, kind) == (200, "image/jpeg")


async def test_custom_cdn_without_a_prefix_is_refused(gateway: Gateway) -> None:
    """Nothing is made when the URL could not be what was asked for."""
    async with gateway as running, running.client() as client:
        with pytest.raises(ConfigurationError, match="cdn_prefix"):
            await client.image.generate_url("test image", use_custom_cdn=True)
        assert not list(running.data_dir.glob("images/*/*"))


@pytest.mark.parametrize(
    "prefix",
    [
        "cdn.x",
        "//cdn.x",
        "javascript:alert(1)",
        "https://cdn.x@evil",
        "https://a\r\n",
        "http://cdn.x",
        "https://x?a",
    ],
)
def test_a_cdn_prefix_must_be_an_https_address(prefix: str) -> None:
    """What would send viewers elsewhere is refused at once."""
    with pytest.raises(ConfigurationError, match="cdn_prefix"):
        BlossomClient("embedded", cdn_prefix=prefix)


async def test_preload_reports_each_url_in_order(gateway: Gateway) -> None:
    """Status, time and errors come for every URL given, duplicates included."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("test image", **TINY)
        missing = f"{running.base_url}/image/{'a' * 22}"
        report = await client.image.preload_urls([url, missing, url])
        whole = await client.image.preload_urls([url], method="GET")
    assert [(result.url, result.status) for result in report.results] == [
        (url, 200),
        (missing, 404),
        (url, 200),
    ]
    assert [result.url for result in report.failures] == [missing]
    assert report.results[0].bytes == 0
    assert whole.results[0].bytes > 0


async def test_one_session_is_shared_and_left_open(gateway: Gateway) -> None:
    """A session that is given belongs to its giver."""
    async with gateway as running, aiohttp.ClientSession() as session:
        async with running.client(session=session) as client:
            await client.image.generate_url("test image", **TINY)
        assert not session.closed


async def test_a_call_takes_six_steps_to_the_socket(gateway: Gateway) -> None:
    """From ``generate_url`` to aiohttp's session a reader follows six functions of ours."""
    functions: list[str] = []

    async def started(*_: object) -> None:
        frame = inspect.currentframe()
        while frame is not None:
            if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                functions.append(frame.f_code.co_name)
            frame = frame.f_back

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(started)
    async with gateway as running, aiohttp.ClientSession(trace_configs=[tracing]) as session:
        async with running.client(session=session) as client:
            functions.clear()
            await client.image.generate_url("test image", **TINY)
    assert functions[-1] == "generate_url"
    assert len(functions) <= 6, functions


@pytest.mark.parametrize("again", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_says_that_it_cannot_be_copied(again: Callable[[BlossomClient], object]) -> None:
    """Pools of processes and task queues try to."""
    with pytest.raises(TypeError, match="make a client of them in each process"):
        again(BlossomClient("http://127.0.0.1:1", api_key="k"))


async def test_opens_on_first_use_and_closes(gateway: Gateway) -> None:
    """Without ``async with`` the first call opens the client, once."""
    async with gateway as running:
        client = running.client()
        urls = await asyncio.gather(*(client.image.generate_url(f"lake {n}", **TINY) for n in range(5)))
        await client.aclose()
        await client.aclose()
    assert len(set(urls)) == 5


async def test_rate_limit_and_concurrency_are_checked_when_given() -> None:
    """A limit that is none is refused before anything happens."""
    for bad in ({"rate_limit": "fast"}, {"rate_limit": -1}, {"max_concurrency": 0}, {"timeout_s": 0}):
        with pytest.raises(ValueError, match="allowed"):
            BlossomClient("embedded", **bad)


async def test_an_api_key_is_one_line(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line break of its file is left out; one inside is refused, without showing the key."""
    async with gateway as running:
        async with BlossomClient(running.base_url, api_key=f"{running.api_key}\n") as client:
            assert await client.image.generate_url("a lake", **TINY)
        monkeypatch.setenv("BLOSSOM_API_KEY", f" {running.api_key} ")
        monkeypatch.setenv("BLOSSOM_BASE_URL", f"{running.base_url}\n")
        async with BlossomClient() as client:
            assert await client.image.generate_url("a lake", **TINY)
    with pytest.raises(ConfigurationError, match="BLOSSOM_API_KEY: a key with a line break") as caught:
        BlossomClient("embedded", api_key="secret\nX-Evil: 1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ['"secret"', "'secret'", "Bearer secret", "${secret}", b"secret"])
def test_an_api_key_comes_alone(key: Any) -> None:
    """Docker's env files keep quotes, and systemd's expand no variable: each call would be answered 401."""
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        BlossomClient("embedded", api_key=key)
    assert "secret" not in str(caught.value)


async def test_addresses_and_limits_are_read_as_they_are_meant(gateway: Gateway) -> None:
    """A line break of a file is no part of an address; numpy's numbers are numbers."""
    five: Any = np.int64(5)
    async with gateway as running:
        address = f" {running.base_url}/\n"
        async with BlossomClient(
            address, api_key=running.api_key, max_concurrency=five, rate_limit=five
        ) as client:
            assert await client.image.generate_url("a lake", **TINY)


async def test_a_picture_is_known_and_deleted_by_url_or_id(
    gateway: Gateway,
) -> None:
    """Any form of its URL will do; once deleted it is gone."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info("a lake", **TINY)
        signed = await client.image.sign_url(info.id)
        for name in (info.url, signed, info.id, f"{running.base_url}/generated/{info.id}.png"):
            assert await client.image.get(name) == info
        await client.image.delete(signed)
        await client.image.delete(info.id)
        with pytest.raises(Gone):
            await client.image.get(info.id)
        with pytest.raises(NotFound):
            await client.image.delete("0" * 22)
        with pytest.raises(InvalidRequest, match="an id, or a URL from the gateway"):
            await client.image.get("https://example.com/cat.png")


async def test_a_batch_becomes_rows_of_equal_columns(gateway: Gateway) -> None:
    """One row for each item: what was asked for, and the picture or what went wrong."""
    async with gateway as running, running.client() as client:
        entries: list[Any] = ["a lake", ImageRequest("a hill", width=16), {"prompt": "a town", "width": -1}]
        batch = await client.image.generate_urls_batch_custom(entries, **TINY)
    lake, hill, town = rows = batch.to_dicts()
    assert [row["prompt"] for row in rows] == ["a lake", "a hill", "a town"]
    assert [row["url"] for row in rows] == list(batch)
    assert (lake["width"], hill["width"], lake["error"], lake["attempts"]) == (32, 16, None, 1)
    assert (town["error_code"], town["id"]) == ("InvalidRequest", None)
    assert "width: -1" in town["error"]
    assert list(lake) == list(town)


async def test_the_blocking_form_refuses_a_running_loop() -> None:
    """``with`` inside a coroutine would block it, and says what to write instead."""
    with pytest.raises(RuntimeError, match="async with"):
        BlossomClient("embedded").__enter__()


def test_the_blocking_form_does_the_same() -> None:
    """Every method waits for its result; the embedded gateway serves meanwhile."""
    with BlossomClient("embedded") as client:
        info = client.image.generate_url_with_info("a lake", **TINY)
        with urllib.request.urlopen(info.url) as response:  # noqa: S310 - loopback
            assert len(response.read()) == info.file_size
        assert client.image.validate_url(info.url)
        assert client.image.get(info.id).sha256 == info.sha256
        assert client.image.regenerate_from_url(info.url) != info.url
        urls = client.image.generate_urls_batch(PROMPTS, **TINY)
        assert None not in urls
        with client.image.stream_urls(PROMPTS, ordered=True, **TINY) as outcomes:
            assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3, 4]
        assert not client.image.preload_urls(list(filter(None, urls))).failures
        assert client.base_url
        assert client.api_key
        assert client.api_key not in repr(client)


@pytest.mark.campaign
def test_without_with_a_script_ends_by_itself() -> None:
    """A client that was never closed does not keep the interpreter from ending, and prints nothing odd."""
    script = (
        "from blossom_async import BlossomClient\n"
        "client = BlossomClient('embedded', cdn_prefix='https://cdn.myapp.com')\n"
        "url = client.image.generate_url(prompt='test image', use_custom_cdn=True, width=32, height=32)\n"
        "print(url)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert ended.stdout.startswith("https://cdn.myapp.com/generated/")
    assert ended.stderr == ""


@pytest.mark.campaign
def test_a_client_left_open_closes_with_its_loop() -> None:
    """``asyncio.run()`` ends it in good order, and the next one opens it anew."""
    script = (
        "import asyncio\n"
        "from blossom_async import BlossomClient\n"
        "client = BlossomClient('embedded')\n"
        "async def main():\n"
        "    print(await client.image.generate_url('a lake', width=32, height=32))\n"
        "asyncio.run(main())\n"
        "asyncio.run(main())\n"
        "asyncio.run(client.aclose())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert len(ended.stdout.split()) == 2
    assert ended.stderr == ""


def test_a_blocking_call_ends_while_no_file_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises, instead of waiting for an event loop that never starts; once there are files, it works."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # asyncio's error at the end of half a loop
    anyio.run(anyio.sleep, 0)  # imports what it needs
    thread, nothing = LoopThread(), partial(anyio.sleep, 0)

    def said() -> str:
        try:
            return f"no error but {thread.call(nothing)}"
        except TransportError as exc:
            return str(exc)

    with no_files_left():
        assert "ulimit -n" in said()
    assert said() == "no error but None"
    thread.end(nothing)
    gc.collect()


def test_a_blocking_call_that_ends_the_event_loop_leaves_room_for_another() -> None:
    """As ``sys.exit()`` in a callback does; the next call has a loop of its own."""
    thread, nothing = LoopThread(), partial(anyio.sleep, 0)

    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        thread.call(leave)
    thread.call(nothing)
    thread.end(nothing)


async def test_a_stream_that_is_not_entered_says_how() -> None:
    """Python's own error would not."""
    stream: Any = BlossomClient("http://127.0.0.1:9").image.stream_urls(["a lake"])
    with pytest.raises(TypeError, match="`async with`"):
        aiter(stream)
    with pytest.raises(TypeError, match="is entered before"):
        iter(stream)


def test_a_blocking_call_that_cannot_begin_leaves_no_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Ctrl-C at its start: Python would warn that it was never awaited."""

    class Interrupted(LoopThread):
        def call(self, work: object) -> Any:
            raise KeyboardInterrupt

    gc.collect()  # what earlier tests left behind warns of nothing here
    warned: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: warned.append(seen.exc_value))
    client = BlossomClient("http://127.0.0.1:9")
    with pytest.raises(KeyboardInterrupt):
        BlockingImages(client, client._images, Interrupted()).get("A" * 22)
    gc.collect()
    assert warned == []


def test_ctrl_c_stops_a_blocking_batch(tmp_path: Path) -> None:
    """What has not begun is not made: one Ctrl-C ends the call and closes the client."""
    script = (
        "from blossom_async import BlossomClient\n"
        "with BlossomClient('embedded', max_concurrency=4) as client:\n"
        "    def told(progress): print(progress.done, flush=True)\n"
        "    try:\n"
        "        client.image.generate_urls_batch(['a lake'] * 5000, width=16, height=16, on_progress=told)\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as there:
        assert there.stdout is not None
        assert there.stdout.readline() == "1\n"
        there.send_signal(signal.SIGINT)
        rest = there.stdout.read().split()
        assert there.wait(60) == 0
    assert rest[-1] == "stopped"
    assert len(rest) < 5000


def test_ctrl_c_that_another_thread_takes_stops_a_blocking_call() -> None:
    """The system may hand it to any thread, and the one that waits is not woken."""
    cancelled = []

    async def work() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), LIMIT_S)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    thread, before = LoopThread(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.call(work)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.end(partial(asyncio.sleep, 0))
    assert cancelled == [True]


def test_no_base_url_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded gateway is the default, and one warning says so."""
    monkeypatch.delenv("BLOSSOM_BASE_URL", raising=False)
    with pytest.warns(UserWarning, match="inside this process") as caught, BlossomClient() as client:
        client.image.generate_url("a lake", **TINY)
    assert len(caught) == 1


async def test_gone_pictures_are_not_regenerated(gateway: Gateway) -> None:
    """What was deleted stays deleted."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info("test image", **TINY)
        authorised = {"Authorization": f"Bearer {running.api_key}"}
        async with aiohttp.ClientSession(headers=authorised) as session:
            await session.delete(f"{running.base_url}/v1/images/{info.id}")
        with pytest.raises(Gone):
            await client.image.regenerate_from_url(info.url)


class Flaky:
    """Stands before a real gateway and answers the first calls for a picture itself."""

    def __init__(self, running: RunningGateway, answers: list[Any]) -> None:
        self.running = running
        self.answers = answers
        self.keys: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/images":
            self.keys.append(request.headers["Idempotency-Key"])
            if self.answers:
                answer = self.answers.pop(0)
                if answer is None:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                return web.Response(status=answer)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                self.running.base_url + request.path,
                data=await request.read(),
                headers={name: request.headers[name] for name in request.headers if name != "Host"},
            ) as response,
        ):
            return web.Response(
                status=response.status, body=await response.read(), content_type=response.content_type
            )


@asynccontextmanager
async def flaky(running: RunningGateway, *answers: Any) -> AsyncIterator[tuple[Flaky, str]]:
    before = Flaky(running, list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", before.handle)
    async with TestServer(app) as server:
        yield before, str(server.make_url("")).rstrip("/")


AT_ONCE = RetryPolicy(first_wait_s=0.001, max_wait_s=0.001)


@pytest.mark.parametrize("answer", [503, 500, 502, 504, None])
async def test_a_passing_failure_is_retried_under_the_same_key(gateway: Gateway, answer: int | None) -> None:
    """The caller sees a URL; the gateway sees one key, so the picture is made once."""
    async with gateway as running, flaky(running, answer) as (before, base_url):
        async with BlossomClient(base_url, api_key=running.api_key, retry=AT_ONCE) as client:
            await client.image.generate_url("a lake", **TINY)
    assert len(before.keys) == 2
    assert len(set(before.keys)) == 1


async def test_without_a_policy_nothing_is_retried(gateway: Gateway) -> None:
    """``retry=None`` gives the first error."""
    async with gateway as running, flaky(running, 500) as (before, base_url):
        async with BlossomClient(base_url, api_key=running.api_key, retry=None) as client:
            with pytest.raises(ServerFailed):
                await client.image.generate_url("a lake", **TINY)
    assert len(before.keys) == 1


async def test_a_refused_key_stops_a_batch(gateway: Gateway) -> None:
    """401 would be the answer to all: the rest is not tried and says so."""
    async with gateway as running, BlossomClient(running.base_url, api_key="wrong") as client:
        urls = await client.image.generate_urls_batch(PROMPTS, max_concurrency=1, **TINY)
    assert isinstance(urls.failures[0].error, Unauthenticated)
    assert [outcome.index for outcome in urls.not_run] == [1, 2, 3, 4]


async def test_a_journal_makes_a_batch_resumable(gateway: Gateway, tmp_path: Path) -> None:
    """The same call again sends only what is not finished, and gives the same URLs."""
    journal = tmp_path / "run.jsonl"
    async with gateway as running, flaky(running) as (before, base_url):
        async with BlossomClient(base_url, api_key=running.api_key) as client:
            async with client.image.stream_urls(
                PROMPTS, ordered=True, journal=journal, max_concurrency=1, **TINY
            ) as outcomes:
                first = [outcome.value async for outcome in outcomes if outcome.index < 3]
            sent = len(before.keys)
            urls = await client.image.generate_urls_batch(PROMPTS, journal=journal, **TINY)
    assert [info and info.url for info in first] == list(urls)[:3]
    assert None not in urls
    assert (sent, len(before.keys)) == (5, 5)


async def test_a_journal_of_other_options_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    """A changed batch does not pass for the one on record."""
    journal = tmp_path / "run.jsonl"
    async with gateway as running, running.client() as client:
        await client.image.generate_urls_batch(PROMPTS, journal=journal, **TINY)
        with pytest.raises(ConfigurationError, match=r"run\.jsonl"):
            await client.image.generate_urls_batch(PROMPTS, journal=journal, width=48)


async def test_equal_requests_are_sent_once(gateway: Gateway) -> None:
    """With ``dedup`` every index has the one answer."""
    async with gateway as running, flaky(running) as (before, base_url):
        async with BlossomClient(base_url, api_key=running.api_key) as client:
            urls = await client.image.generate_urls_batch(
                ["a lake", "a forest", "a lake"], dedup=True, **TINY
            )
    assert urls[0] == urls[2] != urls[1]
    assert len(before.keys) == 2


async def test_max_cost_is_never_exceeded(gateway: Gateway) -> None:
    """Pictures of 2 credits within 5: two are made, the rest is not tried."""
    async with gateway as running, running.client() as client:
        urls = await client.image.generate_urls_batch(PROMPTS, quality="hd", max_cost=5, **TINY)
    assert urls.cost == 4
    assert len(urls.not_run) == 3


async def test_a_batch_option_that_is_unknown_names_the_nearest(gateway: Gateway) -> None:
    """Options of the run and of the picture are told apart from typos."""
    async with gateway as running, running.client() as client:
        with pytest.raises(TypeError, match="Did you mean 'max_concurrency'"):
            await client.image.generate_urls_batch(PROMPTS, max_concurency=3)  # type: ignore[call-arg]


async def test_a_journal_belongs_to_its_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another data folder has none of the pictures, so the journal is not taken for its own."""
    journal = tmp_path / "run.jsonl"
    async with BlossomClient("embedded") as client:
        await client.image.generate_urls_batch(PROMPTS, journal=journal, **TINY)
    monkeypatch.setenv("BLOSSOM_DATA_DIR", str(tmp_path / "elsewhere"))
    async with BlossomClient("embedded") as client:
        with pytest.raises(ConfigurationError, match=r"run\.jsonl"):
            await client.image.generate_urls_batch(PROMPTS, journal=journal, **TINY)


async def test_urls_from_a_journal_open_at_the_gateways_port_of_today(tmp_path: Path) -> None:
    """An embedded gateway may have another port than in the run before."""
    journal = tmp_path / "run.jsonl"
    async with BlossomClient("embedded") as client:
        before = await client.image.generate_urls_batch(PROMPTS, journal=journal, **TINY)
    async with BlossomClient("embedded") as client:
        after = await client.image.generate_urls_batch(PROMPTS, journal=journal, **TINY)
        assert [info and info.id for info in after.infos] == [info and info.id for info in before.infos]
        assert all([(await fetch(str(url)))[0] == 200 for url in after])


def test_the_version_is_there() -> None:
    """``blossom_async.__version__`` is that of the installed package."""
    assert blossom_async.__version__[0].isdigit()
