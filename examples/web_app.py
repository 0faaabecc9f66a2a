"""A web page that draws what is typed: the same in aiohttp.web and in FastAPI.

Run: python examples/web_app.py aiohttp        (or: fastapi, which needs fastapi and uvicorn)
Then open http://127.0.0.1:8080/?prompt=sunset+over+ocean

One client serves the app for its whole life, so all requests share its session and its limits. When the
browser goes away before the picture is there, the call is cancelled and its slot is free for the next one.
"""

from __future__ import annotations

import html
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
from aiohttp import web

from blossom_async import BlossomClient, BlossomError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

T = TypeVar("T")
CLIENT = web.AppKey("client", BlossomClient)


def page(prompt: str, url: str) -> str:
    return f'<h1>{html.escape(prompt)}</h1><img src="{html.escape(url)}" alt="{html.escape(prompt)}">'


def aiohttp_app(client: BlossomClient) -> web.Application:
    """Serve it with ``handler_cancellation=True``: then aiohttp cancels a handler whose browser has gone."""

    async def client_for_life(app: web.Application) -> AsyncIterator[None]:
        async with client:
            app[CLIENT] = client
            yield

    async def draw(request: web.Request) -> web.Response:
        prompt = request.query.get("prompt", "")
        try:
            url = await request.app[CLIENT].image.generate_url(prompt, width=512, height=512)
        except BlossomError as exc:
            raise web.HTTPBadRequest(text=str(exc)) from exc
        return web.Response(text=page(prompt, url), content_type="text/html")

    app = web.Application()
    app.cleanup_ctx.append(client_for_life)
    app.add_routes([web.get("/", draw)])
    return app


def fastapi_app(client: BlossomClient) -> FastAPI:
    """FastAPI lets a handler run on when its browser has gone, so this one watches for that itself."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import HTMLResponse

    @asynccontextmanager
    async def client_for_life(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=client_for_life)

    async def draw(request: Request, prompt: str = "") -> HTMLResponse:
        try:
            url = await while_connected(request, client.image.generate_url(prompt, width=512, height=512))
        except BlossomError as exc:
            raise HTTPException(400, str(exc)) from exc
        return HTMLResponse(page(prompt, url or ""))

    # FastAPI reads the annotations, which this module keeps as text.
    draw.__annotations__ = {"request": Request, "prompt": str, "return": HTMLResponse}
    app.get("/")(draw)
    return app


async def while_connected(request: Request, call: Awaitable[T]) -> T | None:
    """The result of the call; None, and the call cancelled, once the browser has gone."""
    result: T | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            result = await call
        except BlossomError as exc:
            failure: BlossomError | None = exc  # raised below: a task group would wrap it
        else:
            failure = None
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


def main() -> None:
    client = BlossomClient(max_concurrency=8)
    if sys.argv[1:] == ["fastapi"]:
        import uvicorn

        uvicorn.run(fastapi_app(client), port=8080)
    else:
        web.run_app(aiohttp_app(client), host="127.0.0.1", port=8080, handler_cancellation=True)


if __name__ == "__main__":
    main()
