"""What the gateway counts, in the text format of Prometheus. No prompt, key or id is in a label."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import attrs
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

if TYPE_CHECKING:  # prometheus_client takes 40 ms to import: only who asks for figures waits for that
    from prometheus_client.core import Metric

__all__ = ["Metrics", "RequestCounter"]

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


@attrs.define(eq=False)
class _Tally:
    """Answers of one route, method and class of status. ``took`` counts them by the bounds."""

    seconds: float = 0.0
    took: list[int] = attrs.Factory(lambda: [0] * (len(_BOUNDS_S) + 1))


class Metrics:
    """Requests, counted as they are answered, and whatever else is ``watched``, read when it is asked for."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int], _Tally] = {}
        self._bytes_sent = 0
        self._watched: list[Callable[[], Metric]] = []

    def count(self, route: str, method: str, status: int, seconds: float, sent: int) -> None:
        """Notes an answer. Costs about a microsecond."""
        key = route, method if method in _METHODS else "other", status // 100
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        tally.seconds += seconds
        tally.took[bisect_left(_BOUNDS_S, seconds)] += 1
        self._bytes_sent += sent

    def counter(self, name: str, told: str, read: Callable[[], int]) -> None:
        """Watches a number that only grows."""
        self.counters(name, told, (), lambda: {(): read()})

    def gauge(self, name: str, told: str, read: Callable[[], float]) -> None:
        """Watches a number."""
        self._watched.append(partial(_gauge, name, told, read))

    def counters(
        self, name: str, told: str, labels: Iterable[str], read: Callable[[], Mapping[tuple[str, ...], int]]
    ) -> None:
        """Watches numbers that only grow, by the values of their labels."""
        self._watched.append(partial(_counters, name, told, tuple(labels), read))

    def text(self) -> tuple[bytes, str]:
        """All of it, and the content type."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        from prometheus_client.core import HistogramMetricFamily

        labels = ("route", "method", "status")
        requests = HistogramMetricFamily(
            "blossom_request_seconds", "From a request to the last byte of its answer.", labels=labels
        )
        for (route, method, status), tally in self._tallies.items():
            bounds = [*map(str, _BOUNDS_S), "+Inf"]
            buckets = list(zip(bounds, accumulate(tally.took), strict=True))
            requests.add_metric((route, method, f"{status}xx"), buckets, tally.seconds)
        yield requests
        yield _counters("blossom_sent_bytes", "Bytes of answers.", (), lambda: {(): self._bytes_sent})
        for read in self._watched:
            yield read()


class RequestCounter(AbstractAccessLogger):
    """aiohttp's hook after each answer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Counts the answer under its route's pattern; what no application saw has none."""
        route = "none"
        found = getattr(request, "_match_info", None)  # what is no HTTP was matched with no route
        if found is not None and found.route.resource is not None:
            route = found.route.resource.canonical
        self._metrics.count(route, request.method, response.status, time, response.body_length)


def _gauge(name: str, told: str, read: Callable[[], float]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, told, value=read())


def _counters(
    name: str, told: str, labels: tuple[str, ...], read: Callable[[], Mapping[tuple[str, ...], int]]
) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, told, labels=labels)
    for values, number in sorted(read().items()):
        family.add_metric(values, number)
    return family
