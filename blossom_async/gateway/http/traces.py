"""A span for each request, and how ``blossom serve`` sends traces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.http.problems import ERROR_CODE
from blossom_async.tracing import note_answer, span

__all__ = ["sending_traces", "traced"]


@web.middleware
async def traced(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers within a span, which belongs to the trace that the request's ``traceparent`` names."""
    resource = request.match_info.route.resource
    route = "none" if resource is None else resource.canonical
    with span(
        f"{request.method} {route}",
        "SERVER",
        within=request.headers,
        http_request_method=request.method,
        http_route=route,
    ) as current:
        response = await handler(request)
        note_answer(current, response.status, response.get(ERROR_CODE))
        return response


@contextmanager
def sending_traces() -> Iterator[None]:
    """Sends this process's spans by OTLP over HTTP while the block runs, and what is left at its end.

    Where to, and everything else, is set by the variables of OpenTelemetry, such as
    ``OTEL_EXPORTER_OTLP_ENDPOINT``. Raises ``ConfigurationError`` if the extra is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise ConfigurationError(
            f"traces: OpenTelemetry is missing ({exc}): pip install '.[otel]' in the checkout, or unset "
            "BLOSSOM_TRACES"
        ) from exc
    # The variables OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override it.
    resource = Resource({SERVICE_NAME: "blossom"}).merge(Resource.create())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
