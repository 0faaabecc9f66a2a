"""The environment's proxy: for gateways and providers, never for this machine or untrusted URLs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from blossom_async import BlossomClient, BlossomError, ConfigurationError, TransportError
from blossom_async.proxies import proxy_for
from tests.conftest import running_gateway
from tests.ports import reserved_port


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own environment decides."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that answers 404 to everything: its URL, and the request lines it has seen."""
    lines: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readline()).decode().strip())
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lines


@pytest.mark.parametrize(
    ("variable", "written", "url", "used"),
    [
        ("HTTP_PROXY", "http://proxy:3128", "http://gateway.example.com", "http://proxy:3128"),
        ("http_proxy", "http://proxy:3128", "http://gateway.example.com", "http://proxy:3128"),
        ("HTTP_PROXY", " proxy:3128 ", "http://gateway.example.com", "http://proxy:3128"),
        ("HTTP_PROXY", "http://me:secret@proxy", "http://gateway.example.com", "http://me:secret@proxy"),
        ("ALL_PROXY", "http://proxy", "https://gateway.example.com", "http://proxy"),
        ("HTTPS_PROXY", "http://proxy", "http://gateway.example.com", None),
        ("HTTP_PROXY", "", "http://gateway.example.com", None),
        ("HTTP_PROXY", "http://proxy", "http://127.0.0.1:8765", None),
        ("HTTP_PROXY", "http://proxy", "http://[::1]:8765", None),
        ("HTTP_PROXY", "http://proxy", "http://localhost:8765", None),
    ],
)
def test_what_the_environment_names(
    variable: str, written: str, url: str, used: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either case of the variable, with or without a scheme; this machine is reached directly."""
    monkeypatch.setenv(variable, written)
    assert proxy_for(URL(url)) == (None if used is None else URL(used))


@pytest.mark.parametrize(
    ("without", "direct"),
    [("*", True), ("example.com", True), (".example.com", True), ("gateway.example.com:8765", True),
     ("other.com, example.com", True), ("gateway.example.com:1", False), ("ample.com", False)],
)  # fmt: skip
def test_hosts_without_a_proxy(without: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY lists hosts, domains and hosts with a port."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    monkeypatch.setenv("NO_PROXY", without)
    assert (proxy_for(URL("http://gateway.example.com:8765")) is None) is direct


@pytest.mark.parametrize(
    ("host", "direct"),
    [("10.1.2.3", True), ("11.1.2.3", False), ("[fd00::1]", True), ("10.1.2.3.com", False)],
)
def test_networks_without_a_proxy(host: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY lists networks too, as it does in Kubernetes."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8, fd00::/8,.svc")
    assert (proxy_for(URL(f"http://{host}:8765")) is None) is direct


@pytest.mark.parametrize(
    "written", ["socks5://me:secret@proxy:1080", "http://", "http://me:secret@proxy:port"]
)
def test_a_proxy_that_cannot_be_used(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and its password is not said back."""
    monkeypatch.setenv("HTTP_PROXY", written)
    with pytest.raises(ConfigurationError, match="allowed in HTTP_PROXY") as caught:
        proxy_for(URL("http://gateway.example.com"))
    assert "secret" not in str(caught.value)


async def test_a_client_reaches_its_gateway_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that only the proxy knows is no obstacle."""
    async with proxy() as (url, lines):
        monkeypatch.setenv("HTTP_PROXY", url)
        with pytest.raises(ConfigurationError):
            async with BlossomClient("http://gateway.invalid:8765", api_key="k" * 20):
                pass
    assert lines == ["GET http://gateway.invalid:8765/healthz HTTP/1.1"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_not_there_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the gateway, which nobody has asked."""
    with reserved_port() as port:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:secret@127.0.0.1:{port}")
        with pytest.raises(TransportError, match=r"its proxy 127\.0\.0\.1:\d+ cannot be reached") as caught:
            await BlossomClient(f"{scheme}://gateway.invalid", api_key="k" * 20).__aenter__()
    assert "NO_PROXY" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_proxy_that_refuses_a_tunnel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its status."""
    async with proxy() as (url, lines):
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(TransportError, match="its proxy answered 404"):
            await BlossomClient("https://gateway.invalid", api_key="k" * 20).__aenter__()
    assert lines == ["CONNECT gateway.invalid:443 HTTP/1.1"]


@pytest.mark.parametrize("use", [True, False])
async def test_a_provider_is_reached_through_it(
    use: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unless the setting ``use_proxies`` says no."""
    async with proxy() as (url, lines):
        monkeypatch.setenv("HTTP_PROXY", url)
        provider = {"providers": ("openai",), "openai_model": "m", "openai_url": "http://provider.invalid/v1"}
        async with (
            running_gateway(tmp_path, use_proxies=use, **provider) as running,
            running.client(retry=None) as client,
        ):
            with pytest.raises(BlossomError):
                await client.image.generate_url("a fox")
    assert ("POST http://provider.invalid/v1/images/generations HTTP/1.1" in lines) is use


async def test_urls_of_strangers_are_never_fetched_through_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy would connect to addresses that the guard refuses."""
    async with proxy() as (url, lines), running_gateway(tmp_path) as running, running.client() as client:
        monkeypatch.setenv("HTTP_PROXY", url)
        with pytest.raises(TransportError):
            await client.image.validate_url("http://stranger.invalid/a.png")
        report = await client.image.preload_urls(["http://stranger.invalid/a.png"])
    assert [result.error is None for result in report.results] == [False]
    assert lines == []
