"""The base of all fake providers: a real server on loopback, its ledger, faults and seen requests."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import secrets
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import attrs
from aiohttp import web

from blossom_async.errors import ConfigurationError
from blossom_async.testing.exchange import Answer, Order, Refused, SeenRequest, seen_request
from blossom_async.testing.faults import Fault, FaultPlan
from blossom_async.testing.ledger import Charge, Ledger
from blossom_async.testing.pictures import PLACEHOLDER, Picture, draw, pillow, spoiled

__all__ = ["EVERYWHERE", "SEEN", "FakeServer", "Made"]

SEEN = web.RequestKey("seen", SeenRequest)
"""The key under which a request holds its ``SeenRequest``."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_BODY_BYTES = 32 * 2**20
_WAIT_FOR_HANDLERS_S = 0.01
_TURNS_OF_ACCEPTING = 3  # asyncio accepts, makes the transport and tells the protocol in one each


@attrs.frozen
class Made:
    """The pictures of an order; ``new`` is False if an earlier request made, or is making, them.

    ``counted`` is False if no usage is reported for them.
    """

    pictures: list[Picture]
    new: bool
    counted: bool = True


@attrs.frozen
class _Job:
    fingerprint: str
    began_at: datetime
    pictures: asyncio.Task[list[Picture]]


def _now() -> datetime:
    return datetime.now(UTC)


class FakeServer(ABC):
    """A provider on 127.0.0.1 that runs inside ``async with``. Servers share no state.

    ``api_key`` is the only accepted key; None accepts every caller. ``keyed`` honours ``Idempotency-Key``:
    requests with the same key get the same pictures and are charged once, also while the first one is in
    flight and, with a ``ledger_file``, after a restart. ``retry_after_s`` is sent with refusals that name a
    time. ``slow_s`` is how long the slow faults wait, using ``sleep``, before the first byte or between two.
    ``clock`` dates charges, and expires temporary URLs and cached pictures.

    Entering raises ``ConfigurationError`` if Pillow is not installed, the port is taken, or the ledger file
    is unusable.
    """

    provider: ClassVar[str]
    unit: ClassVar[str]
    known_faults: ClassVar[frozenset[Fault]]
    files_kept: ClassVar[timedelta]
    placeholder: ClassVar[bytes] = PLACEHOLDER.data

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str | None = None,
        keyed: bool = False,
        ledger_file: Path | None = None,
        retry_after_s: float = 2.0,
        slow_s: float = 0.05,
        clock: Callable[[], datetime] = _now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._port = port
        self._api_key = api_key
        self._keyed = keyed
        self._ledger_file = ledger_file
        self._retry_after_s = retry_after_s
        self._slow_s = slow_s
        self._clock = clock
        self._sleep = sleep
        self._runner: web.AppRunner | None = None
        self._sock: socket.socket | None = None
        self._origin = ""
        self._news = asyncio.Condition()
        self._open = asyncio.Event()
        self._open.set()
        self._jobs: dict[str, _Job] = {}
        self._drawing: set[asyncio.Task[list[Picture]]] = set()
        self._files: dict[str, tuple[Picture, datetime]] = {}
        self.requests: list[SeenRequest] = []
        self.ledger: Ledger = Ledger()
        self.faults: FaultPlan = FaultPlan(self.known_faults)

    async def __aenter__(self) -> Self:
        pillow()
        self.ledger = Ledger(self._ledger_file)
        app = web.Application(middlewares=[self._note], client_max_size=_MAX_BODY_BYTES)
        app.router.add_get("/files/{name}", self._file)
        self._add_routes(app.router)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_WAIT_FOR_HANDLERS_S
        )
        try:
            await self._runner.setup()
            self._sock = sock = socket.create_server(("127.0.0.1", self._port))
            await web.SockSite(self._runner, sock).start()
        except BaseException as exc:
            await self._close()
            if isinstance(exc, OSError):
                raise ConfigurationError(
                    f"127.0.0.1:{self._port} cannot be listened on ({exc.strerror}): port 0 takes a free one"
                ) from exc
            raise
        self._origin = f"http://127.0.0.1:{sock.getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def base_url(self) -> str:
        """The address to give to a client of this provider. Raises ``ConfigurationError`` unless running."""
        if self._runner is None:
            raise ConfigurationError("this fake server is not running: use its address inside `async with`")
        return self._origin

    @property
    def placeholder_sha256(self) -> str:
        """SHA-256 of this server's placeholder picture."""
        return PLACEHOLDER.sha256

    def fail_next(self, fault: Fault | str, *, times: int = 1) -> None:
        """As ``faults.add_next``."""
        self.faults.add_next(fault, times)

    def fail(self, fault: Fault | str, *, probability: float = 1.0, seed: int = 0) -> None:
        """As ``faults.add``."""
        self.faults.add(fault, probability=probability, seed=seed)

    def clear(self) -> None:
        """As ``faults.clear``."""
        self.faults.clear()

    async def wait_for_requests(self, number: int) -> list[SeenRequest]:
        """The first ``number`` requests, as soon as that many have arrived in full."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= number)
        return self.requests[:number]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block pictures are ordered and charged but not finished; leaving it finishes them."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    @abstractmethod
    def _add_routes(self, router: web.UrlDispatcher) -> None: ...

    @abstractmethod
    def _error(self, seen: SeenRequest, status: int, message: str) -> Answer:
        """An error in the provider's format."""

    @abstractmethod
    def _refusal(self, fault: Fault, seen: SeenRequest) -> Answer | None:
        """The answer for a fault that refuses the request, None for other faults."""

    def _orders(
        self,
        read: Callable[[SeenRequest], Order],
        show: Callable[[SeenRequest, Order, Made], Answer],
    ) -> _Handler:
        """A handler of requests for pictures: ``read`` may raise ``Refused``, ``show`` builds the answer."""

        async def handle(request: web.Request) -> web.StreamResponse:
            seen = request[SEEN]
            fault = self.faults.take()
            if fault is Fault.HANG:
                await _for_ever()
            if fault is Fault.RESET:
                return _reset(request)
            try:
                answer = await self._answer(seen, fault, read, show)
            except Refused as refused:  # nothing was ordered, so no fault applies
                answer, fault = refused.answer, None
            if fault is Fault.CHARGE_THEN_HANG:
                await _for_ever()
            if fault is Fault.CHARGE_THEN_RESET:
                return _reset(request)
            return await self._deliver(request, seen, answer, fault)

        return handle

    async def _answer(
        self,
        seen: SeenRequest,
        fault: Fault | None,
        read: Callable[[SeenRequest], Order],
        show: Callable[[SeenRequest, Order, Made], Answer],
    ) -> Answer:
        if fault is not None and (refusal := _AT_THE_EDGE.get(fault) or self._refusal(fault, seen)):
            return refusal
        order = read(seen)
        if fault is Fault.PLACEHOLDER:  # not made, so not charged
            return show(seen, order, Made([PLACEHOLDER] * order.count, new=True, counted=False))
        made = await self._make(seen, order)
        if fault is Fault.CHARGE_THEN_500:
            if made.new and order.cache_name is not None:  # the picture is lost; only the same key returns it
                self._jobs.pop(f"cache {order.cache_name}", None)
            return self._error(seen, 500, "The picture was made, and lost.")
        sent = [
            spoiled(
                picture,
                fault,
                width=order.width,
                height=order.height,
                redraw=functools.partial(_drawn, order),
            )
            for picture in made.pictures
        ]
        return _garbled(show(seen, order, attrs.evolve(made, pictures=sent)), fault)

    async def _make(self, seen: SeenRequest, order: Order) -> Made:
        key = seen.idempotency_key if self._keyed else None
        names = [f"key {key}"] if key is not None else []
        if order.cache_name is not None:
            names.append(f"cache {order.cache_name}")
        for name in names:
            if (job := self._job(name)) is None:
                continue
            if name.startswith("key ") and job.fingerprint != seen.fingerprint:
                raise Refused(
                    self._error(
                        seen, 409, "This Idempotency-Key was used for another request; use a new key."
                    )
                )
            return Made(await asyncio.shield(job.pictures), new=False)
        # Charged and recorded before the first await, so that no other request comes in between.
        new = key is None or not self.ledger.knows_key(key)
        if new:
            self.ledger.add(self._charge(seen, order))
        drawing = asyncio.create_task(self._draw(order))
        self._drawing.add(drawing)
        drawing.add_done_callback(self._drawing.discard)
        self._jobs |= dict.fromkeys(names, _Job(seen.fingerprint, self._clock(), drawing))
        return Made(await asyncio.shield(drawing), new)

    def _job(self, name: str) -> _Job | None:
        job = self._jobs.get(name)
        return job if job and self._clock() - job.began_at < self.files_kept else None

    def _charge(self, seen: SeenRequest, order: Order) -> Charge:
        return Charge(
            at=self._clock(),
            provider=self.provider,
            request_id=seen.id,
            idempotency_key=seen.idempotency_key,
            model=order.model,
            prompt_sha256=hashlib.sha256(order.prompt.encode()).hexdigest(),
            seed=order.seed,
            amount=order.price * order.count,
            unit=self.unit,
        )

    async def _draw(self, order: Order) -> list[Picture]:
        await self._open.wait()
        words = [f"{order.model} {order.seed} {number} {order.prompt}" for number in range(order.count)]
        return await asyncio.to_thread(
            lambda: [_drawn(order, each, order.width, order.height) for each in words]
        )

    def _publish(self, picture: Picture) -> str:
        """A public URL of the picture, valid for ``files_kept``."""
        name = secrets.token_hex(16)
        self._files[name] = picture, self._clock()
        return f"{self._origin}/files/{name}"

    async def _file(self, request: web.Request) -> web.StreamResponse:
        picture, published_at = self._files.get(request.match_info["name"], (PLACEHOLDER, None))
        if published_at is None:
            raise web.HTTPNotFound
        if self._clock() - published_at >= self.files_kept:
            raise web.HTTPForbidden(text=_EXPIRED, content_type="application/xml")
        return web.Response(body=picture.data, headers={"Content-Type": picture.media_type})

    @web.middleware
    async def _note(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        seen = await seen_request(request, at=self._clock(), request_id=f"req_{secrets.token_hex(8)}")
        request[SEEN] = seen
        async with self._news:
            self.requests.append(seen)
            self._news.notify_all()
        return await handler(request)

    async def _deliver(
        self, request: web.Request, seen: SeenRequest, answer: Answer, fault: Fault | None
    ) -> web.StreamResponse:
        headers = {**answer.headers, "x-request-id": seen.id}
        if fault is Fault.SLOW_FIRST_BYTE:
            await self._sleep(self._slow_s)
        if answer.status != 200 or fault not in {Fault.CLOSED_EARLY, Fault.SLOW_DRIP}:
            return web.Response(status=answer.status, body=answer.body, headers=headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        if fault is Fault.CLOSED_EARLY:
            await response.write(answer.body[: len(answer.body) // 2])
            if request.transport is not None:
                request.transport.close()
            return response
        for byte in answer.body:
            await response.write(bytes([byte]))
            await self._sleep(self._slow_s)
        return response

    async def _close(self) -> None:
        if self._runner is not None:
            if self._sock is not None:  # asyncio leaks what it accepts in the turns before ``close``
                asyncio.get_running_loop().remove_reader(self._sock)
                self._sock = None
            for _ in range(_TURNS_OF_ACCEPTING):
                await asyncio.sleep(0)
            await self._runner.cleanup()
            self._runner = None
        for task in self._drawing:
            task.cancel()
        await asyncio.gather(*self._drawing, return_exceptions=True)
        self.ledger.close()


_EXPIRED = (
    '<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code>'
    "<Message>Signature not valid in the specified time frame</Message></Error>"
)
_PAGE = "<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"

_AT_THE_EDGE: Mapping[Fault, Answer] = {
    Fault.EDGE_524: Answer(
        524, _PAGE.format(title="A timeout occurred").encode(), {"Content-Type": "text/html; charset=UTF-8"}
    ),
    Fault.EDGE_530: Answer(530, b"error code: 1033", {"Content-Type": "text/plain; charset=UTF-8"}),
    Fault.HTML_200: Answer(
        200, _PAGE.format(title="Just a moment").encode(), {"Content-Type": "text/html; charset=UTF-8"}
    ),
}
"""Answers of the proxy in front of a provider, which does not use the provider's formats."""

EVERYWHERE = frozenset(_AT_THE_EDGE) | {
    Fault.PLACEHOLDER,
    Fault.SVG_AS_PNG,
    Fault.JSON_AS_JPEG,
    Fault.TRUNCATED,
    Fault.CLOSED_EARLY,
    Fault.EMPTY_BODY,
    Fault.TINY,
    Fault.WRONG_SIZE,
    Fault.SAME_BYTES,
    Fault.RESET,
    Fault.HANG,
    Fault.CHARGE_THEN_RESET,
    Fault.CHARGE_THEN_500,
    Fault.CHARGE_THEN_HANG,
    Fault.SLOW_DRIP,
    Fault.SLOW_FIRST_BYTE,
}
"""Faults that do not depend on the provider's formats."""


def _drawn(order: Order, words: str, width: int, height: int) -> Picture:
    return draw(words, width=width, height=height, format=order.format, transparent=order.transparent)


def _garbled(answer: Answer, fault: Fault | None) -> Answer:
    match fault:
        case Fault.EMPTY_BODY:
            return attrs.evolve(answer, body=b"")
        case Fault.DATA_EMPTY:
            return attrs.evolve(answer, body=json.dumps(json.loads(answer.body) | {"data": []}).encode())
        case Fault.DATA_MISSING:
            fields = json.loads(answer.body)
            del fields["data"]
            return attrs.evolve(answer, body=json.dumps(fields).encode())
        case _:
            return answer


def _reset(request: web.Request) -> web.StreamResponse:
    """Ends the connection with a TCP reset and no answer."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
