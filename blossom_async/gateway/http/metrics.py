"""The gateway's metrics, in the Prometheus text format. No label holds a prompt, a key or an id."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import attrs
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from blossom_async.gateway.http.logs import AccessLines

if TYPE_CHECKING:  # prometheus_client takes 40 ms to import, so only a scrape imports it
    from prometheus_client.core import Metric

__all__ = ["Metrics", "RequestCounter"]

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


@attrs.define(eq=False)
class _Tally:
    """Answers of one route, method and status class. ``took`` counts them by bucket of the histogram."""

    seconds: float = 0.0
    took: list[int] = attrs.Factory(lambda: [0] * (len(_BOUNDS_S) + 1))


class Metrics:
    """Counts requests as they are answered; other metrics are read at each scrape."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int], _Tally] = {}
        self._bytes_sent = 0
        self._watched: list[Callable[[], Metric]] = []

    def count(self, route: str, method: str, status: int, seconds: float, sent: int) -> None:
        """Counts an answer. Takes about a microsecond."""
        key = route, method if method in _METHODS else "other", status // 100
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        tally.seconds += seconds
        tally.took[bisect_left(_BOUNDS_S, seconds)] += 1
        self._bytes_sent += sent

    def counter(self, name: str, text: str, read: Callable[[], int]) -> None:
        """Adds a counter that is read at each scrape."""
        self.counters(name, text, (), lambda: {(): read()})

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read at each scrape."""
        self._watched.append(partial(_gauge, name, text, read))

    def counters(
        self,
        name: str,
        text: str,
        labels: Iterable[str],
        read: Callable[[], Mapping[tuple[str, ...], int]],
    ) -> None:
        """Adds a counter with labels, read at each scrape. The keys of ``read()`` are the labels' values."""
        self._watched.append(partial(_counters, name, text, tuple(labels), read))

    def text(self) -> tuple[bytes, str]:
        """All metrics, and their content type."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """What the registry of prometheus_client calls at a scrape."""
        from prometheus_client.core import HistogramMetricFamily

        labels = ("route", "method", "status")
        requests = HistogramMetricFamily(
            "blossom_request_seconds", "Time from a request to the last byte of its answer.", labels=labels
        )
        for (route, method, status), tally in self._tallies.items():
            bounds = [*map(str, _BOUNDS_S), "+Inf"]
            buckets = list(zip(bounds, accumulate(tally.took), strict=True))
            requests.add_metric((route, method, f"{status}xx"), buckets, tally.seconds)
        yield requests
        yield _counters(
            "blossom_sent_bytes", "Bytes sent, heads included.", (), lambda: {(): self._bytes_sent}
        )
        for read in self._watched:
            yield read()


class RequestCounter(AbstractAccessLogger):
    """Counts each answer, and writes its line in the log: aiohttp calls an access logger after it."""

    def __init__(self, metrics: Metrics, lines: AccessLines) -> None:
        self._metrics = metrics
        self._lines = lines

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Records the answer under its route; requests rejected before routing have ``none``."""
        route = "none"
        found = getattr(request, "_match_info", None)  # a request that is not valid HTTP has none
        if found is not None and found.route.resource is not None:
            route = found.route.resource.canonical
        self._metrics.count(route, request.method, response.status, time, response.body_length)
        self._lines.write(request, response, route, time)


def _gauge(name: str, text: str, read: Callable[[], float]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, value=read())


def _counters(
    name: str, text: str, labels: tuple[str, ...], read: Callable[[], Mapping[tuple[str, ...], int]]
) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in sorted(read().items()):
        family.add_metric(values, number)
    return family
