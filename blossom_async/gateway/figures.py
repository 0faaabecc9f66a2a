"""What ``/metrics`` tells beside requests: providers, money, storage, webhooks, limits, the process."""

from __future__ import annotations

import asyncio
import platform
import shutil
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import attrs

from blossom_async.errors import Overloaded
from blossom_async.gateway.background.upkeep import Upkeep
from blossom_async.gateway.background.webhooks import Webhooks
from blossom_async.gateway.callers.admission import Admission
from blossom_async.gateway.callers.keys import ApiKeys
from blossom_async.gateway.counting.analytics import Views
from blossom_async.gateway.http.metrics import Metrics
from blossom_async.gateway.making.generation import Generation
from blossom_async.gateway.making.upstreams import Upstreams
from blossom_async.gateway.serving.hot import HotBytes
from blossom_async.gateway.storage.records import Records
from blossom_async.gateway.storage.records import figures as statements

__all__ = ["watch_limits", "watch_pictures", "watch_process", "watch_providers", "watch_records"]

_READ_S = 3.0


def watch_pictures(
    metrics: Metrics, generation: Generation, hot: HotBytes, upkeep: Upkeep, views: Views
) -> None:
    """Pictures made, served and cleared away."""
    metrics.counters(
        "blossom_pictures_made", "Stored pictures.", ("provider", "format"), lambda: generation.made
    )
    metrics.gauge("blossom_pictures_waiting", "Pictures being made or waiting.", lambda: generation.waiting)
    metrics.counter("blossom_hot_hits", "Pictures served from memory.", lambda: hot.hits)
    metrics.counter("blossom_hot_misses", "Pictures read from the disk.", lambda: hot.misses)
    metrics.counter(
        "blossom_pictures_swept", "Expired pictures whose files were removed.", lambda: upkeep.swept
    )
    metrics.counter(
        "blossom_orphans_removed",
        "Files removed because no picture referred to them.",
        lambda: upkeep.orphans,
    )
    metrics.counter("blossom_views_dropped", "Views not counted because of load.", lambda: views.dropped)


def watch_providers(metrics: Metrics, upstreams: Upstreams) -> None:
    """Calls of each provider, how long they take, and what waits for it."""
    name = ("provider",)
    metrics.counters(
        "blossom_provider_calls",
        "Calls of a provider, by outcome: ok, or the kind of fault.",
        ("provider", "outcome"),
        lambda: {(each.name, kind): n for each in upstreams for kind, n in each.calls.outcomes.items()},
    )
    metrics.histograms(
        "blossom_provider_call_seconds",
        "Time that calls of a provider took.",
        name,
        lambda: {(each.name,): each.calls.took for each in upstreams},
    )
    metrics.counters(
        "blossom_provider_spent_usd",
        "US dollars that calls of a provider have cost, as far as that is known.",
        name,
        lambda: {(each.name,): each.calls.spent / 1_000_000 for each in upstreams},
    )
    metrics.gauges(
        "blossom_provider_in_progress",
        "Calls in progress at a provider.",
        name,
        lambda: {(each.name,): each.in_progress for each in upstreams},
    )
    metrics.gauges(
        "blossom_provider_waiting",
        "Calls that wait for their turn at a provider.",
        name,
        lambda: {(each.name,): each.waiting for each in upstreams},
    )
    metrics.gauges(
        "blossom_provider_resting_seconds",
        "Time until a provider that has failed is called again, 0 if it is.",
        name,
        lambda: {(each.name,): each.resting_s() for each in upstreams},
    )


def watch_limits(metrics: Metrics, admission: Admission, keys: ApiKeys, webhooks: Webhooks) -> None:
    """Refused calls, wrong keys, and webhooks sent."""
    metrics.counter(
        "blossom_key_calls_refused", "Calls beyond key_rate_limit.", lambda: admission.beyond_rate
    )
    metrics.counter("blossom_wrong_keys", "Invalid API keys that were sent.", lambda: keys.wrong)
    metrics.counter(
        "blossom_wrong_keys_refused", "Keys not looked at, beyond failed_key_limit.", lambda: keys.refused
    )
    metrics.counters(
        "blossom_webhooks", "Webhooks sent, by outcome.", ("outcome",), lambda: webhooks.attempts
    )


def watch_process(metrics: Metrics) -> None:
    """Which version runs, and what the process uses."""
    built = (version("blossom-async"), platform.python_version())
    metrics.gauges("blossom_build_info", "Always 1.", ("version", "python"), lambda: {built: 1})
    metrics.process()


def watch_records(metrics: Metrics, records: Records, data_dir: Path, *, daily_budget: int | None) -> None:
    """What the database and the disk know: money, held calls, files, webhooks that wait.

    It is read for each scrape. If it cannot be read, ``blossom_records_up`` is 0 and the rest is left out.
    Gateways that share a database tell the same of it: take the largest, not the sum. ``daily_budget`` is for
    the keys without one of their own, in millionths of a US dollar.
    """
    found = _Found()

    async def read() -> None:
        kept = None
        try:
            async with asyncio.timeout(_READ_S):
                kept = await records.read(partial(statements.kept, int(time.time()) // 86_400))
                found.free = (await asyncio.to_thread(shutil.disk_usage, data_dir)).free
        except (Overloaded, TimeoutError, OSError):
            pass
        found.kept = kept

    metrics.before(read)

    def of(pick: Callable[[statements.Kept], dict[str, float]]) -> Callable[[], dict[tuple[str, ...], float]]:
        return lambda: {} if found.kept is None else {(key,): n for key, n in pick(found.kept).items()}

    def budgets(kept: statements.Kept) -> dict[str, float]:
        given = dict.fromkeys(kept.spent, daily_budget) | kept.budgets
        return {key: budget / 1_000_000 for key, budget in given.items() if budget is not None}

    metrics.gauge("blossom_records_up", "Whether the database can be read.", lambda: found.kept is not None)
    metrics.gauge("blossom_disk_free_bytes", "Free bytes on the disk of the data folder.", lambda: found.free)
    metrics.gauges(
        "blossom_stored_files",
        "Files of pictures, by format.",
        ("format",),
        of(lambda kept: {name: number for name, (number, _) in kept.files.items()}),
    )
    metrics.gauges(
        "blossom_stored_bytes",
        "Bytes of the files of pictures, by format.",
        ("format",),
        of(lambda kept: {name: size for name, (_, size) in kept.files.items()}),
    )
    metrics.gauges(
        "blossom_calls_held",
        "Calls that may have been paid and wait for `blossom spend release`, by provider.",
        ("provider",),
        of(lambda kept: dict(kept.held)),
    )
    metrics.gauges(
        "blossom_spent_today_usd",
        "US dollars that an API key has spent or reserved today (UTC), by its name.",
        ("key",),
        of(lambda kept: {key: spent / 1_000_000 for key, spent in kept.spent.items()}),
    )
    metrics.gauges("blossom_budget_usd", "US dollars that an API key may spend a day.", ("key",), of(budgets))
    metrics.gauges(
        "blossom_webhooks_waiting",
        "Webhooks that are still to be delivered.",
        (),
        lambda: {} if found.kept is None else {(): found.kept.webhooks},
    )


@attrs.define
class _Found:
    kept: statements.Kept | None = None
    free: int = 0
