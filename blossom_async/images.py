"""The methods of ``client.image``: prompts in, picture URLs out."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import date, datetime
from functools import partial
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, Unpack, cast
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from blossom_async.batch import (
    BatchResult,
    Outcome,
    RunOptions,
    run,
    run_one,
    stream,
)
from blossom_async.batch.timeouts import SECONDS, is_seconds
from blossom_async.cdn import Cdn, without_cdn
from blossom_async.downloads import already_there, write_picture
from blossom_async.errors import Gone, InvalidRequest, ProviderFailed, Rejected, TimedOut
from blossom_async.guard import is_this_machine
from blossom_async.limits import Limits
from blossom_async.models import (
    IMAGE_ID,
    WIDTH,
    Estimate,
    ExplainRequest,
    Explanation,
    ImageInfo,
    ImageOptions,
    ImagePage,
    ImageRequest,
    ImageSettings,
    PreloadReport,
    SignedUrl,
    SignRequest,
    UrlStats,
    at_width,
    checked,
    image_request,
    to_json,
    to_plain,
)
from blossom_async.tracing import span
from blossom_async.transport import MAX_ANSWER, Exchange, File, Transport
from blossom_async.url_batch import (
    BatchOptions,
    NamedRun,
    Request,
    RequestWriter,
    UrlBatch,
    bound_journal,
    check_several,
    hand_over_urls,
    split,
)
from blossom_async.warmup import METHODS, check_url, preload_one, validate, warmup_session

__all__ = ["Images"]

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_PATH = re.compile(
    rf"({IMAGE_ID})|.*/(?:image/({IMAGE_ID})(?:{WIDTH})?|generated/({IMAGE_ID})(?:{WIDTH})?\.[a-z]+)",
    re.ASCII,
)
_WIDTH = re.compile(rf".*/{IMAGE_ID}({WIDTH})(?![^.?#])", re.ASCII)
_PRELOAD_AT_ONCE = 32
_LARGEST_PAGE = 32 * MAX_ANSWER  # a thousand pictures with the longest metadata


class Images:
    """Pictures by URL. Every call opens the client if need be and keeps to its limits and retries.

    Options are the fields of ``ImageRequest``, checked before anything is sent: an unknown one raises
    ``TypeError``, a bad value ``InvalidRequest``. Every call to the gateway may raise ``TransportError`` (no
    answer), ``TimedOut``, the ``ResponseError`` for the answer's status, and ``ConfigurationError`` if there
    is no gateway or something else answers at its address.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Transport]],
        *,
        cdn: Cdn,
        limits: Limits,
        warmup: frozenset[str] | None,
    ) -> None:
        self._connect = connect
        self._cdn = cdn
        self._limits = limits
        self._warmup = warmup

    async def generate_url(self, prompt: str, **options: Unpack[ImageOptions]) -> str:
        """The URL of a new picture. The picture exists when this returns, unless ``defer`` is set."""
        request = self._checked({"prompt": prompt, **options})
        return self._cdn.placed(await self._call(_creation(request)), request).url

    async def generate_url_with_info(self, prompt: str, **options: Unpack[ImageOptions]) -> ImageInfo:
        """As ``generate_url``, with everything the gateway knows about the picture."""
        request = self._checked({"prompt": prompt, **options})
        return self._cdn.placed(await self._call(_creation(request)), request)

    async def get(self, url: str) -> ImageInfo:
        """Everything the gateway knows about a picture, given any of its URLs or its id.

        Also of an expired picture, and of a deferred one while it is being made. Raises ``InvalidRequest``,
        ``NotFound``, and ``Gone`` if the picture was deleted.
        """
        return await self._call(Exchange("GET", f"/v1/images/{_image_id(url)}", ImageInfo))

    async def list(
        self,
        words: str = "",
        *,
        state: str = "live",
        tracking_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ImagePage:
        """A page of the stored pictures, the newest first, at most ``limit`` (1 to 1000) of them.

        ``words`` are searched for literally, ignoring case, in prompts and tracking ids. ``state`` is
        ``live``, ``expired`` or ``all``; deleted pictures and those still being made are never listed.
        ``cursor`` is the ``next`` of the page before. Raises ``Rejected`` for a value that cannot be used.
        """
        given = {"q": words, "state": state, "tracking_id": tracking_id, "limit": limit, "cursor": cursor}
        query = urlencode({name: value for name, value in given.items() if value not in (None, "")})
        return await self._call(Exchange("GET", f"/v1/images?{query}", ImagePage, largest=_LARGEST_PAGE))

    async def wait(self, url: str, *, timeout_s: float = 600.0) -> ImageInfo:
        """The picture made with ``defer``, once it is ready. It is asked for every 0.1 to 2 s.

        Raises ``ProviderFailed`` with the reason and its code if it was not made, ``TimedOut`` after
        ``timeout_s`` seconds (it is still being made then), and as ``get``.
        """
        if not is_seconds(timeout_s):
            raise InvalidRequest("timeout_s", timeout_s, SECONDS)
        limit, pause_s = asyncio.timeout(timeout_s), 0.1
        try:
            async with limit:
                while (info := await self.get(url)).state == "pending":
                    await asyncio.sleep(pause_s)
                    pause_s = min(1.5 * pause_s, 2.0)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise TimedOut(
                f"the picture is still being made after {timeout_s:g} s; wait for it again"
            ) from exc
        if info.state != "ready":
            raise ProviderFailed(info.problem or "the picture was not made", code=info.problem_code)
        return info

    async def download(self, url: str, path: str | PathLike[str]) -> Path:
        """The path of a picture's file, written to ``path``, or into that folder as ``{id}.{format}``.

        For the owner, whatever the picture's rules say; no view is counted. The bytes are verified, and a
        reader never sees a part of them. A file that has them already is left as it is. Raises as ``get``,
        ``Conflict`` while the picture is being made, ``Gone`` if it has expired, and ``OSError``.
        """
        fetch = partial(self._download, await self._connect(), Path(path))
        return await self._limited(fetch, await self.get(url))

    async def save(
        self, pictures: UrlBatch | Iterable[ImageInfo | str], folder: str | PathLike[str]
    ) -> BatchResult[ImageInfo | str, Path]:
        """The paths of the files of pictures, downloaded into a folder as ``{id}.{format}``, in input order.

        Of a batch, only of the pictures that were made. URLs and ids are taken, too. One that fails is None
        and affects no other. To resume, call it again: what is there and sound is not fetched anew. Raises
        ``OSError`` if the folder cannot be created.
        """
        if isinstance(pictures, str | ImageInfo):
            raise InvalidRequest("pictures", pictures, "a batch or several pictures; download() takes one")
        made = pictures.infos if isinstance(pictures, UrlBatch) else pictures
        place = Path(folder)
        await asyncio.to_thread(place.mkdir, parents=True, exist_ok=True)
        fetch = partial(self._download, await self._connect(), place)
        return await run(fetch, (picture for picture in made if picture is not None), **self._shared())

    async def _download(self, transport: Transport, path: Path, picture: ImageInfo | str) -> Path:
        info = picture if isinstance(picture, ImageInfo) else None
        if info is None or info.state != "ready":  # it was deferred, and may be ready by now
            image_id = _image_id(picture) if info is None else info.id
            info = await transport.send(Exchange("GET", f"/v1/images/{image_id}", ImageInfo))
        if (there := await asyncio.to_thread(already_there, info, path)) is not None:
            return there
        largest = max(info.file_size, MAX_ANSWER)
        file = await transport.send(Exchange("GET", f"/v1/images/{info.id}/file", File, largest=largest))
        return await asyncio.to_thread(write_picture, info, file, path)

    async def delete(self, url: str) -> None:
        """Deletes a picture and erases its prompt and metadata, given any of its URLs or its id.

        Its URLs answer 410 from now on, except where a cache in front of the gateway still has it. Safe to
        repeat. Raises ``InvalidRequest``, ``NotFound``, and ``Conflict`` while it is being made.
        """
        with suppress(Gone):
            await self._call(Exchange("DELETE", f"/v1/images/{_image_id(url)}", NoneType))

    async def generate_signed_url(
        self,
        prompt: str,
        *,
        signature_ttl: int = 3600,
        access_key: str | None = None,
        stable: bool = False,
        **options: Unpack[ImageOptions],
    ) -> str:
        """The signed URL of a new picture that can only be opened with a signed URL.

        The URL is valid for ``signature_ttl`` seconds, 1 to 604,800. ``access_key`` and ``stable`` as for
        ``sign_url``. Raises ``Conflict``, before a picture is made, if the access key was revoked.
        """
        request = self._checked({"prompt": prompt, **options, "require_signature": True})
        wish = SignRequest(
            signature_ttl=signature_ttl, access_key=access_key, stable=stable, cdn=request.use_custom_cdn
        )
        info = await self._call(_creation(request, {"sign": to_plain(wish)}))
        return self._cdn.url(info.url) if wish.cdn else info.url

    async def sign_url(
        self, url: str, *, signature_ttl: int = 3600, access_key: str | None = None, stable: bool = False
    ) -> str:
        """A signed URL for an existing picture, which opens all its widths, given any of its URLs.

        ``access_key`` names whom the URL is for, such as a user's id: ``revoke_access_key`` invalidates every
        URL signed under that name. ``stable`` rounds the expiry up, so that all URLs signed within half of
        ``signature_ttl`` (at least a minute, at most an hour) are equal and browsers can cache the picture.

        Whoever has a signed URL can open it. A picture made without ``require_signature`` opens without one
        too. Raises ``InvalidRequest`` for a URL that is not a gateway's, ``NotFound``, ``Gone``, and
        ``Conflict`` if the access key was revoked.
        """
        wish = SignRequest(
            signature_ttl=signature_ttl, access_key=access_key, stable=stable, cdn=self._cdn.serves(url)
        )
        path = f"/v1/images/{_image_id(url)}/signed-url"
        made = await self._call(Exchange("POST", path, SignedUrl, to_json(wish)))
        narrowed = _WIDTH.match(url.partition("?")[0])
        signed = made.url if narrowed is None else at_width(made.url, narrowed[1])
        return self._cdn.url(signed) if wish.cdn else signed

    async def revoke_access_key(self, access_key: str) -> None:
        """Invalidates every URL signed under the name within a second. It can never be signed under again."""
        name = SignRequest(access_key=access_key).access_key
        path = f"/v1/access-keys/{quote(name, safe='')}/revoke"
        await self._call(Exchange("POST", path, NoneType, b""))

    async def explain_url(
        self,
        url: str,
        *,
        address: str | None = None,
        referer: str | None = None,
        origin: str | None = None,
        authorized: bool = False,
        at: datetime | None = None,
    ) -> Explanation:
        """How the gateway would answer a viewer, for the picture's owner: the status and the rule behind it.

        The viewer requests ``url`` from the IP ``address``, with the headers ``referer`` and ``origin``, and
        with the owner's API key if ``authorized``. ``at`` is an aware time, by default now. No view is
        counted. Raises ``InvalidRequest`` and ``NotFound``.
        """
        asked = ExplainRequest(
            url=url, address=address, referer=referer, origin=origin, authorized=authorized, at=at
        )
        path = f"/v1/images/{_image_id(url)}/explain"
        return await self._call(Exchange("POST", path, Explanation, to_json(asked)))

    async def get_url_stats(
        self, tracking_id: str, date_range: tuple[str | date, str | date] | None = None
    ) -> UrlStats:
        """How often the pictures with a ``tracking_id`` were viewed.

        ``date_range`` is the first and the last day, both included, in UTC: dates, or text such as
        "2026-06-01". Behind a CDN the gateway sees only the requests that the CDN forwards; docs/gateway.md
        says how to count the rest. Raises ``InvalidRequest`` for a bad range and ``NotFound`` for a
        ``tracking_id`` that no picture has.
        """
        query = {"tracking_id": tracking_id, **_days(date_range)}
        return await self._call(Exchange("GET", f"/v1/stats?{urlencode(query)}", UrlStats))

    async def estimate_cost(self, prompt: str, **options: Unpack[ImageOptions]) -> Estimate:
        """What ``generate_url`` would cost; nothing is made. ``usd`` is None where no price is known."""
        body = to_json(without_cdn(self._checked({"prompt": prompt, **options})))
        return await self._call(Exchange("POST", "/v1/estimate", Estimate, body))

    async def generate_urls_batch(
        self, prompts: Iterable[str] | AsyncIterable[str], **options: Unpack[BatchOptions]
    ) -> UrlBatch:
        """One picture for each prompt, with the same options for all.

        A prompt that fails is None in the result and affects no other. Bad options fail the whole call before
        anything is sent. An answer that every prompt would get, such as a rejected API key, stops the batch:
        untried prompts have ``NotRun``. ``BatchOptions`` says how it runs.

        Also raises ``ConfigurationError`` for a journal that belongs to another batch, is in use, or is not
        writable.
        """
        return await self.generate_urls_batch_custom(prompts, **options)

    async def generate_urls_batch_custom(
        self, requests: Iterable[Request] | AsyncIterable[Request], **defaults: Unpack[BatchOptions]
    ) -> UrlBatch:
        """As ``generate_urls_batch``, but a request's own settings override the ``defaults``.

        An ``ImageRequest`` overrides only with fields that differ from their default values. An invalid
        request fails alone. An exception of ``requests`` has the ``UrlBatch`` so far as its ``result``.
        """
        writer, how = self._batch(requests, defaults)
        transport = await self._connect()
        make = partial(self._make, transport, writer)
        try:
            return UrlBatch(await run(make, requests, **bound_journal(how, transport, writer.named)))
        except Exception as exc:
            hand_over_urls(exc)
            raise

    def stream_urls(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        ordered: bool = False,
        **defaults: Unpack[BatchOptions],
    ) -> AbstractAsyncContextManager[AsyncIterator[Outcome[Request, ImageInfo]]]:
        """Outcomes as they come, or in input order. Requests are pulled lazily, so memory stays constant.

        ``async with client.image.stream_urls(requests) as outcomes: async for outcome in outcomes: ...``
        Each successful outcome's ``value`` is an ``ImageInfo``. Leaving the block cancels what is under way.
        With ``dedup`` memory grows with the number of distinct requests.
        """
        writer, how = self._batch(requests, defaults)

        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncIterator[Outcome[Request, ImageInfo]]]:
            transport = await self._connect()
            make = partial(self._make, transport, writer)
            async with stream(
                make, requests, ordered=ordered, **bound_journal(how, transport, writer.named)
            ) as outcomes:
                yield outcomes

        return opened()

    async def validate_url(self, url: str) -> bool:
        """Whether the server says that the URL works. An outage raises; it does not make a URL invalid.

        Connects only to this client's gateway, to its ``cdn_prefix`` and to what ``warmup`` allows. Raises
        ``InvalidRequest`` for anything but an http(s) URL, ``TransportError``, and ``ResponseError`` for 429
        and 5xx.
        """
        target = check_url(url)
        async with self._warmup_session(await self._connect()) as session:
            return await validate(session, target)

    async def regenerate_from_url(self, url: str, **overrides: Unpack[ImageOptions]) -> str:
        """The URL of a new picture, made from the request behind an earlier URL, even an expired one.

        Without overrides the same picture is made again under a new id; another ``seed`` gives a variation.
        The earlier URL may have any form: plain, under a CDN, signed. Raises ``InvalidRequest`` if it has no
        picture id, ``NotFound`` if the gateway does not know the id, and ``Gone`` if the picture was
        deleted.
        """
        image_id = _image_id(url)
        settings = self._cdn.checked(checked(overrides, ImageSettings))
        changes = {name: getattr(settings, name) for name in overrides if name != "use_custom_cdn"}
        path = f"/v1/images/{image_id}/regenerate"
        again = Exchange("POST", path, ImageInfo, to_json(changes), idempotency_key=secrets.token_hex(16))
        return self._cdn.placed(await self._call(again), settings).url

    async def preload_urls(self, urls: Iterable[str], *, method: str = "auto") -> PreloadReport:
        """Warms up caches with concurrent requests: status, time, size and cache state of each URL, in order.

        ``method`` is ``HEAD``, ``GET`` (the whole picture) or ``auto`` (HEAD, and GET of the first byte where
        HEAD is refused). A URL given twice is requested once. A URL that fails has its error in its result.
        Connects only as ``validate_url`` does. Raises ``InvalidRequest``, before any request is sent, for
        anything but an http(s) URL.
        """
        if method not in METHODS:
            raise InvalidRequest("method", method, f"one of {', '.join(METHODS)}")
        if isinstance(urls, str):
            raise TypeError("preload_urls takes a list of URLs, not one string; put it in a list")
        given = [check_url(url) for url in urls]
        async with self._warmup_session(await self._connect()) as session:
            preload = partial(preload_one, session, method=method)
            distinct = list(dict.fromkeys(given))
            fetched = await run(preload, distinct, max_concurrency=_PRELOAD_AT_ONCE)
        fetched.raise_for_failures()
        by_url = dict(zip(distinct, fetched, strict=True))
        results = tuple(result for url in given if (result := by_url[url]) is not None)
        return PreloadReport(results=results, elapsed_s=fetched.elapsed_s)

    async def _call(self, exchange: Exchange[Answer]) -> Answer:
        """The gateway's answer, under the client's limits and with its retries."""
        with span("blossom call"):  # with what its retries send
            return await self._limited((await self._connect()).send, exchange)

    def _limited(
        self, attempt: Callable[[Asked], Awaitable[Answer]], item: Asked
    ) -> Coroutine[Any, Any, Answer]:
        limits = self._limits
        return run_one(
            attempt,
            item,
            limits.slots,
            (limits.gate,),
            retry=limits.retry,
            timeout_s=limits.timeout_s,
            budget=limits.budget,
        )

    def _checked(self, options: Mapping[str, Any]) -> ImageRequest:
        return self._cdn.checked(image_request(options))

    def _batch(self, requests: object, options: BatchOptions) -> tuple[RequestWriter, RunOptions[Request]]:
        """The writer of the requests, and the options of the run. Raises what is wrong for all requests."""
        check_several(requests)
        defaults, how = split(options)
        writer = RequestWriter(defaults, self._cdn, NamedRun.taken_from(cast(dict[str, Any], how)))
        if "max_cost" in how:
            how["cost"] = writer.cost
        if "journal" in how or how.get("dedup"):
            how["key"] = writer.key
        return writer, {**self._shared(), **how}

    def _shared(self) -> RunOptions[Any]:
        """The limits that all calls of this client share, as options of a run."""
        limits = self._limits
        return {
            "max_concurrency": limits.max_concurrency,
            "slots": limits.slots,
            "gates": (limits.gate,),
            "retry": limits.retry,
            "timeout_s": limits.timeout_s,
            "budget": limits.budget,
        }

    async def _make(self, transport: Transport, writer: RequestWriter, entry: Request) -> ImageInfo:
        """One attempt at one entry of a batch."""
        settings, creation = writer.creation(entry)
        try:
            return self._cdn.placed(await transport.send(creation), settings)
        except Rejected as exc:
            writer.explain(entry, exc)
            raise

    def _warmup_session(self, transport: Transport) -> aiohttp.ClientSession:
        base, public = URL(transport.base_url), URL(transport.public_url)
        own = {base}
        if is_this_machine(base.host) or not is_this_machine(public.host):
            own.add(public)  # else it is another machine's name for itself
        if self._cdn.prefix is not None:
            own.add(URL(self._cdn.prefix))
        hosts = {f"{url.host}:{url.port}" for url in own}
        return warmup_session(hosts, self._limits.timeout_s, self._warmup)


def _creation(request: ImageRequest, more: Mapping[str, object] | None = None) -> Exchange[ImageInfo]:
    body = to_json({**to_plain(without_cdn(request)), **(more or {})})
    return Exchange("POST", "/v1/images", ImageInfo, body, idempotency_key=secrets.token_hex(16))


def _days(date_range: object) -> dict[str, str]:
    if date_range is None:
        return {}
    allowed = 'a first and a last day, such as ("2026-06-01", "2026-08-31")'
    try:
        first, last = (
            day if type(day) is date else date.fromisoformat(cast(str, day))
            for day in cast(Iterable[object], date_range)
        )
    except (TypeError, ValueError) as exc:
        raise InvalidRequest("date_range", date_range, allowed) from exc
    if first > last:
        raise InvalidRequest("date_range", date_range, f"{allowed}, the earlier one first")
    return {"from": first.isoformat(), "to": last.isoformat()}


def _image_id(url: object) -> str:
    path = url.partition("?")[0].partition("#")[0] if isinstance(url, str) else ""
    found = _PATH.fullmatch(path)
    if not found:
        raise InvalidRequest(
            "url", url, "an id, or a URL from the gateway: .../image/{id} or .../generated/{id}.png"
        )
    return found[1] or found[2] or found[3]
