"""Traces: one from the caller's method to the stored file, over real connections."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from blossom_async import BlossomError
from blossom_async.gateway.http.traces import sending_traces
from tests.cli.test_cli import running
from tests.conftest import running_gateway
from tests.gateway.http.test_logs import logged, parsed
from tests.gateway.making.test_end_to_end import SMALL, drawing
from tests.waiting import LIMIT_S

_EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def provider() -> None:
    """OpenTelemetry takes one provider in the life of a process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_EXPORTER))
    trace.set_tracer_provider(provider)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans of the test."""
    _EXPORTER.clear()
    yield _EXPORTER
    _EXPORTER.clear()


def above(span: ReadableSpan, spans: tuple[ReadableSpan, ...]) -> list[str]:
    """The names from a span up to the root of its trace."""
    by_id = {each.context.span_id: each for each in spans if each.context is not None}
    names = [span.name]
    while span.parent is not None:
        span = by_id[span.parent.span_id]
        names.append(span.name)
    return names


async def test_a_drawn_picture_is_one_trace(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """The gateway's spans hang below the client's, which only the request's header can tell it."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        await client.image.generate_url("a lake", width=32, height=32)
    made = tuple(
        span
        for span in spans.get_finished_spans()
        if "POST" in " ".join(above(span, spans.get_finished_spans()))
    )
    assert len({span.context.trace_id for span in made if span.context is not None}) == 1
    request = ["POST /v1/images", "POST", "blossom call"]
    assert [above(span, spans.get_finished_spans()) for span in made] == [
        ["wait for turn", *request],
        ["ask provider", *request],
        ["store file", *request],
        ["store record", *request],
        request,
        request[1:],
    ]
    served = made[4]
    assert served.parent is not None
    assert served.parent.is_remote
    assert served.attributes is not None
    assert served.attributes["http.route"] == "/v1/images"
    assert served.attributes["http.response.status_code"] == 201


async def test_a_paid_picture_is_one_trace(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """Also the work that goes on in a task of its own; a failure is marked, without its words."""
    async with drawing(tmp_path) as (service, _, client):
        await client.image.generate_url("xylophone lake", **SMALL)
        service.fail_next("charge_then_500")
        with pytest.raises(BlossomError):
            await client.image.generate_url("xylophone sea", **SMALL)
    found = spans.get_finished_spans()
    asked, lost = [span for span in found if span.name == "ask provider"]
    (record,) = [span for span in found if span.name == "store record"]
    request = ["POST /v1/images", "POST", "blossom call"]
    assert above(asked, found)[1:] == above(record, found)[1:] == request
    assert lost.status.status_code is trace.StatusCode.ERROR
    assert lost.attributes is not None
    assert lost.attributes["error.type"] == "ProviderFault"
    assert lost.events == ()
    assert "xylophone" not in "".join(span.to_json() for span in found)


async def test_a_line_of_the_log_names_its_trace(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """So that one leads to the other."""
    async with drawing(tmp_path) as (_, _, client):
        with logged() as said:
            await client.image.generate_url("a lake", **SMALL)
    (call,) = [line for line in parsed(said) if line["event"] == "provider call"]
    (asked,) = [span for span in spans.get_finished_spans() if span.name == "ask provider"]
    assert asked.context is not None
    assert call["trace_id"] == trace.format_trace_id(asked.context.trace_id)


@pytest.mark.campaign
def test_who_does_not_trace_imports_nothing() -> None:
    """A picture made and viewed, without OpenTelemetry."""
    code = (
        "import sys, urllib.request\n"
        "from blossom_async import BlossomClient\n"
        "with BlossomClient('embedded') as client:\n"
        "    urllib.request.urlopen(client.image.generate_url('a lake', width=32, height=32)).read()\n"
        "print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.campaign
async def test_serve_sends_traces(tmp_path: Path) -> None:
    """By OTLP to the collector that OpenTelemetry's own variables name; the last ones at the end."""
    sent = asyncio.get_running_loop().create_future()

    async def collect(request: web.Request) -> web.Response:
        body = await request.read()
        if not sent.done():
            sent.set_result((request.path, body))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/{path:.*}", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    environment = {
        **os.environ,
        "BLOSSOM_TRACES": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{runner.addresses[0][1]}",
        "OTEL_SERVICE_NAME": "pictures",
    }
    try:
        with running("serve", "--data-dir", tmp_path / "data", env=environment) as there:
            await asyncio.to_thread(_ask_and_end, there)
            path, body = await asyncio.wait_for(sent, LIMIT_S)
            assert await asyncio.to_thread(there.wait, LIMIT_S) == 0
    finally:
        await runner.cleanup()
    assert path == "/v1/traces"
    for shown in (b"GET /healthz", b"service.name", b"pictures"):
        assert shown in body


def _ask_and_end(there: subprocess.Popen[str]) -> None:
    import urllib.request

    assert there.stdout is not None
    address = re.search(r"http://\S+", "".join(there.stdout.readline() for _ in range(4)))
    assert address
    urllib.request.urlopen(f"{address[0]}/healthz").read()  # noqa: S310 - our own gateway
    there.send_signal(signal.SIGTERM)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting takes effect, or the gateway does not start."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(BlossomError, match=r"pip install '\.\[otel\]'"), sending_traces():
        pass
