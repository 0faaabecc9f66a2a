"""The gateway's metrics, in the Prometheus text format. No label holds a prompt, a key or an id."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import attrs
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from blossom_async.gateway.http.logs import AccessLines

if TYPE_CHECKING:  # prometheus_client takes 40 ms to import, so only a scrape imports it
    from prometheus_client.core import Metric

__all__ = ["Histogram", "Metrics", "RequestCounter"]

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_Figures = Mapping[tuple[str, ...], float]
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


@attrs.define(eq=False)
class Histogram:
    """Times, counted in buckets with these upper bounds in seconds."""

    bounds: Sequence[float]
    seconds: float = 0.0
    """The sum of the times."""
    took: list[int] = attrs.field(init=False)

    @took.default
    def _none(self) -> list[int]:
        return [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Counts one."""
        self.seconds += seconds
        self.took[bisect_left(self.bounds, seconds)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """How many were at most so long, for each bound."""
        return list(zip([*map(str, self.bounds), "+Inf"], accumulate(self.took), strict=True))


class Metrics:
    """Counts requests as they are answered; other metrics are read at each scrape."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int], Histogram] = {}
        self._bytes_sent = 0
        self._watched: list[Callable[[], Metric]] = []
        self._before: list[Callable[[], Awaitable[None]]] = []
        self._collectors: list[Callable[[], Iterable[Metric]]] = []

    def count(self, route: str, method: str, status: int, seconds: float, sent: int) -> None:
        """Counts an answer. Takes about a microsecond."""
        key = route, method if method in _METHODS else "other", status // 100
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Histogram(_BOUNDS_S)
        tally.observe(seconds)
        self._bytes_sent += sent

    @property
    def bytes_sent(self) -> int:
        """All bytes sent so far, heads included."""
        return self._bytes_sent

    def answered(self) -> dict[tuple[str, int], int]:
        """How often each route was answered so far, by route and class of the status, such as 2 for 2xx."""
        found: Counter[tuple[str, int]] = Counter()
        for (route, _, status), tally in self._tallies.items():
            found[route, status] += sum(tally.took)
        return found

    def counter(self, name: str, text: str, read: Callable[[], int]) -> None:
        """Adds a counter that is read at each scrape."""
        self.counters(name, text, (), lambda: {(): read()})

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read at each scrape."""
        self.gauges(name, text, (), lambda: {(): read()})

    def counters(self, name: str, text: str, labels: Iterable[str], read: Callable[[], _Figures]) -> None:
        """Adds a counter with labels, read at each scrape. The keys of ``read()`` are the labels' values."""
        self._watched.append(partial(_counters, name, text, tuple(labels), read))

    def gauges(self, name: str, text: str, labels: Iterable[str], read: Callable[[], _Figures]) -> None:
        """Adds a gauge with labels, as ``counters``."""
        self._watched.append(partial(_gauges, name, text, tuple(labels), read))

    def histograms(
        self,
        name: str,
        text: str,
        labels: Iterable[str],
        read: Callable[[], Mapping[tuple[str, ...], Histogram]],
    ) -> None:
        """Adds a histogram with labels, as ``counters``."""
        self._watched.append(partial(_histograms, name, text, tuple(labels), read))

    def before(self, read: Callable[[], Awaitable[None]]) -> None:
        """Adds what is awaited before each scrape."""
        self._before.append(read)

    def process(self) -> None:
        """Adds memory, CPU time, open files and start of this process, under the names of every exporter."""

        def collect() -> Iterable[Metric]:
            from prometheus_client import ProcessCollector

            return ProcessCollector(registry=None).collect()

        self._collectors.append(collect)

    async def text(self) -> tuple[bytes, str]:
        """All metrics, and their content type."""
        for read in self._before:
            await read()
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """What the registry of prometheus_client calls at a scrape."""
        requests: dict[tuple[str, ...], Histogram] = {
            (route, method, f"{status}xx"): tally for (route, method, status), tally in self._tallies.items()
        }
        yield _histograms(
            "blossom_request_seconds",
            "Time from a request to the last byte of its answer.",
            ("route", "method", "status"),
            lambda: requests,
        )
        yield _counters(
            "blossom_sent_bytes", "Bytes sent, heads included.", (), lambda: {(): self._bytes_sent}
        )
        for read in self._watched:
            yield read()
        for collect in self._collectors:
            yield from collect()


class RequestCounter(AbstractAccessLogger):
    """Counts each answer, and writes its line in the log: aiohttp calls an access logger after it."""

    def __init__(self, metrics: Metrics, lines: AccessLines) -> None:
        self._metrics = metrics
        self._lines = lines
        self.count: Callable[[str, str, int, float, int], None] = metrics.count

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Records the answer under its route; requests rejected before routing have ``none``."""
        route = "none"
        found = getattr(request, "_match_info", None)  # a request that is not valid HTTP has none
        if found is not None and found.route.resource is not None:
            route = found.route.resource.canonical
        self._metrics.count(route, request.method, response.status, time, response.body_length)
        self._lines.write(request, response, route, time)


def _gauges(name: str, text: str, labels: tuple[str, ...], read: Callable[[], _Figures]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in sorted(read().items()):
        family.add_metric(values, number)
    return family


def _counters(name: str, text: str, labels: tuple[str, ...], read: Callable[[], _Figures]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in sorted(read().items()):
        family.add_metric(values, number)
    return family


def _histograms(
    name: str, text: str, labels: tuple[str, ...], read: Callable[[], Mapping[tuple[str, ...], Histogram]]
) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, text, labels=labels)
    for values, times in read().items():
        family.add_metric(values, times.buckets(), times.seconds)
    return family
