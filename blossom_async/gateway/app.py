"""Builds the gateway from its parts. Nothing else wires them together."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_network
from urllib.parse import urlsplit

from aiohttp import http_parser, web

from blossom_async.batch import RateLimit
from blossom_async.errors import ConfigurationError
from blossom_async.gateway.advisories import AdvisoryWarning, advice
from blossom_async.gateway.background.supervisor import Supervisor
from blossom_async.gateway.background.upkeep import Upkeep
from blossom_async.gateway.background.webhooks import Webhooks, receiver
from blossom_async.gateway.callers.admission import Admission
from blossom_async.gateway.callers.keys import ApiKeys
from blossom_async.gateway.callers.limits import Counting, Meter
from blossom_async.gateway.callers.secrets import own_secrets
from blossom_async.gateway.callers.shared_limits import SharedMeter
from blossom_async.gateway.calls.aliases import Aliases
from blossom_async.gateway.calls.api import Api
from blossom_async.gateway.calls.front_door import FrontDoor
from blossom_async.gateway.calls.incoming import MAX_BODY
from blossom_async.gateway.calls.info import image_info
from blossom_async.gateway.calls.openapi import OpenApi
from blossom_async.gateway.calls.pictures import Pictures
from blossom_async.gateway.calls.repeats import Repeats
from blossom_async.gateway.calls.signed_urls import SignedUrls
from blossom_async.gateway.calls.uploads import Uploads
from blossom_async.gateway.counting.analytics import Tally, Views
from blossom_async.gateway.counting.traffic import Traffic
from blossom_async.gateway.dashboard import Dashboard
from blossom_async.gateway.dashboard.docs import Docs
from blossom_async.gateway.dashboard.sessions import Sessions, SharedSessions
from blossom_async.gateway.figures import (
    watch_limits,
    watch_pictures,
    watch_process,
    watch_providers,
    watch_records,
)
from blossom_async.gateway.http.connection import Room
from blossom_async.gateway.http.metrics import Metrics
from blossom_async.gateway.http.open_files import last_for_connections
from blossom_async.gateway.http.problems import problems
from blossom_async.gateway.http.ready import Find
from blossom_async.gateway.http.status import Check, Status
from blossom_async.gateway.http.traces import traced
from blossom_async.gateway.making.accounts import Account, connected
from blossom_async.gateway.making.credentials import Credentials
from blossom_async.gateway.making.encoding import warm_up
from blossom_async.gateway.making.finishing import finished
from blossom_async.gateway.making.generation import Generation
from blossom_async.gateway.making.places import places
from blossom_async.gateway.making.sharing import Sharing
from blossom_async.gateway.making.staging import Staging
from blossom_async.gateway.making.upstreams import Limits, Upstreams
from blossom_async.gateway.making.variants import Variants
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.serving.gatekeeper import Gatekeeper
from blossom_async.gateway.serving.hot import HotBytes
from blossom_async.gateway.serving.public import Public
from blossom_async.gateway.serving.signing import Signer
from blossom_async.gateway.settings import Settings, check_keys
from blossom_async.gateway.storage.fleet_gates import FleetGates
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.owners import Living, Owner
from blossom_async.gateway.storage.records import Claim, ImageRecord, Records
from blossom_async.gateway.storage.records import traffic as traffic_records
from blossom_async.gateway.storage.records import views as view_records
from blossom_async.gateway.storage.records.keys import all_api_keys
from blossom_async.gateway.storage.records.upkeep import check_writable
from blossom_async.gateway.storage.threads import in_a_thread
from blossom_async.models import ImageInfo
from blossom_async.rules import network_rule
from blossom_async.tracing import tracing

__all__ = ["FIND", "STATUS", "accounts", "create_app", "credentials"]

_OPEN_FILES = 64  # of an idle gateway
_SETTLE_S = 3.0  # for pictures still being made

STATUS: web.AppKey[Status] = web.AppKey("status", Status)
"""The readiness and the metrics of an application."""

FIND: web.AppKey[Find] = web.AppKey("find")
"""What has answers ready that need no handler."""


def create_app(
    settings: Settings, *, public_url: str, instance: str = "", own_key: str | None = None
) -> web.Application:
    """The gateway as an aiohttp application. Its URLs start with ``public_url``.

    ``/healthz`` answers ``instance``, so that a process can tell its own gateway from another. ``own_key`` is
    an API key for this machine's user, besides those of the settings and the database. Raises
    ``ConfigurationError`` if aiohttp would parse HTTP in pure Python; and at startup if the gateway would
    listen beyond loopback without API keys, or cannot use the data folder.
    """
    _check_parser()
    workers = Workers(settings.render_threads)
    records = Records(settings.database)
    blobs, staging = places(settings.blobs, settings.data_dir)
    lookups = Lookups(records)
    owner = _owner(settings, lookups)
    signing_secrets = settings.signing_secrets or own_secrets(settings.data_dir)
    upstreams = Upstreams()
    shared = None if settings.database_url is None else FleetGates(records)
    daily_budget = None if settings.daily_budget is None else round(settings.daily_budget * 1_000_000)
    generation = Generation(
        upstreams,
        records,
        blobs,
        Staging(staging),
        workers,
        owner,
        secret=signing_secrets[-1].encode(),
        now=_now,
        finish=partial(
            finished, keep_manifests=settings.metadata == "keep", credentials=credentials(settings)
        ),
        most=settings.max_queue,
        daily_budget=daily_budget,
    )
    given_keys = settings.api_keys if own_key is None else (*settings.api_keys, own_key)
    keys = ApiKeys(given_keys, lookups, _meter(settings.failed_key_limit))
    signer = Signer(signing_secrets)

    async def store_views(tally: Tally) -> None:
        await records.write(partial(view_records.store, tally.counts, tally.seen, _now()))

    views = Views(store_views)
    trusted = [ip_network(network_rule(network)) for network in settings.trusted_proxies]
    gatekeeper = Gatekeeper(
        keys, lookups, signer, trusted_proxies=trusted, unfinished=generation, widths=settings.widths
    )
    hot = HotBytes(blobs)
    variants = Variants(records, blobs, workers, now=_now)
    public = Public(
        gatekeeper,
        lookups,
        hot,
        trusted_proxies=trusted,
        now=_now,
        views=views,
        unfinished=generation,
        variants=variants,
        wait_s=settings.defer_wait_s,
    )

    def info(record: ImageRecord | Claim) -> ImageInfo:
        return image_info(record, public_url=public_url, widths=settings.widths, now=_now())

    pictures = Pictures(records, lookups, blobs, now=_now)
    api = Api(
        generation,
        pictures,
        records,
        SignedUrls(records, lookups, signer, public_url=public_url, now=_now),
        gatekeeper,
        views,
        info=info,
        now=_now,
    )

    told = receiver(settings.webhook_url, settings.webhook_secret)
    webhooks = Webhooks(records, told, info=info, now=_now)
    creating = Room(_most_creating(settings))
    admission = Admission(keys, _key_meter(settings, records), creating, trusted_proxies=trusted)
    front_door = FrontDoor(
        admission,
        generation,
        upstreams,
        blobs,
        Repeats(records, now=_now),
        Uploads(pictures, workers),
        public_url=public_url,
        aliases=Aliases(settings.model_aliases),
        usual_answer=settings.response_format,
    )
    upkeep = Upkeep(records, blobs, every_s=settings.sweep_every_s, now=_now)
    metrics = Metrics()

    async def store_traffic(hour: int, answered: traffic_records.Answered) -> None:
        await records.write(partial(traffic_records.add, hour, answered))

    traffic = Traffic(metrics, store_traffic, now=_now)
    # A proxy on this machine reaches loopback, too.
    private = settings.local and settings.public_url is None and not trusted
    for sentence in advice(exposed=not private, decodes=settings.providers != ("offline",)):
        warnings.warn(sentence, AdvisoryWarning, stacklevel=2)
    checks: dict[str, Check] = {"database": partial(records.write, check_writable), "pictures": blobs.check}
    admit = None if private else admission.check
    status = Status(metrics, checks, instance=instance, public_url=public_url, admit=admit)
    watch_process(metrics)
    watch_pictures(metrics, generation, hot, upkeep, views)
    watch_providers(metrics, upstreams)
    watch_limits(metrics, admission, keys, webhooks)
    watch_records(metrics, records, settings.data_dir, daily_budget=daily_budget)

    base = urlsplit(public_url).path.rstrip("/")
    dashboard = Dashboard(
        keys,
        lookups,
        records,
        blobs,
        workers,
        variants,
        generation,
        pictures.delete,
        views.flush,
        traffic.flush,
        _sessions(settings, given_keys, lookups, records),
        admission,
        public_url=public_url,
        base=base,
        widths=settings.widths,
        data_dir=settings.data_dir,
        daily_budget=daily_budget,
        trusted_proxies=trusted,
        now=_now,
    )

    async def warm() -> None:
        try:
            await workers.run(warm_up)
        finally:
            status.warmed_up()

    async def running(_: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            opened.callback(workers.close)
            await opened.enter_async_context(connected(upstreams, accounts(settings), workers, gates=shared))
            for part in (staging, blobs, records):
                opened.push_async_callback(part.close)
                await part.open()
            opened.push_async_callback(views.close)
            opened.push_async_callback(traffic.flush)
            opened.push_async_callback(variants.close)
            opened.push_async_callback(in_a_thread, owner.close)
            await asyncio.to_thread(owner.open)
            stored = await records.read(all_api_keys)
            check_keys(settings, stored=any(key.revoked_at is None for key in stored))
            opened.push_async_callback(_finish, workers, generation)
            jobs = await opened.enter_async_context(Supervisor())
            jobs.start("warming up", warm)
            if shared is not None:
                jobs.start("sharing slots", Sharing(upstreams, records, owner).run)
            jobs.start("clearing away", upkeep.run)
            jobs.start("counting requests", traffic.run)
            jobs.start("recovering unfinished calls", generation.recover)
            jobs.start("asking for models", upstreams.poll_models)
            jobs.start("sending webhooks", webhooks.run)
            yield

    app = web.Application(
        middlewares=[traced, problems] if tracing() else [problems], client_max_size=MAX_BODY
    )
    app.cleanup_ctx.append(running)
    app.on_response_prepare.extend((admission.say_quota, dashboard.note, status.close_when_draining))
    openapi = OpenApi(api.routes(), public_url)
    app.add_routes(
        [
            *status.routes(),
            *openapi.routes(),
            *Docs(openapi.document, base=base).routes(),
            *front_door.routes(),
            *map(admission.guarded, (*api.routes(), *admission.routes())),
            *public.routes(),
            *dashboard.routes(),
        ]
    )
    app[STATUS] = status
    app[FIND] = public.at_once
    return app


async def _finish(workers: Workers, generation: Generation) -> None:
    generation.begin_nothing_more()
    workers.begin_nothing_more()  # every request was answered, or its caller has gone
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(generation.settle(), _SETTLE_S)
    generation.stop()


def _owner(settings: Settings, lookups: Lookups) -> Living:
    if settings.database_url is None:
        return Owner(settings.data_dir / "owners")
    from blossom_async.gateway.storage.leases import Lease  # here, as it imports the driver

    return Lease(settings.database_url, heard=lookups.look_again)


def credentials(settings: Settings) -> Credentials | None:
    """What pictures are signed with, None if they are not. Raises ``ConfigurationError``."""
    cert, key, timestamp_url = settings.c2pa_cert, settings.c2pa_key, settings.c2pa_timestamp_url
    if cert is not None and key is not None:
        return Credentials(cert, key, timestamp_url=timestamp_url)
    if (cert, key, timestamp_url) != (None, None, None):
        raise ConfigurationError(
            "pictures are signed with c2pa_cert and c2pa_key, of which one is not set; set both, or neither "
            "of them nor c2pa_timestamp_url"
        )
    return None


def _sessions(settings: Settings, given_keys: Iterable[str], lookups: Lookups, records: Records) -> Sessions:
    if settings.database_url is None:
        return Sessions(lookups)
    return SharedSessions(lookups, records, given_keys)


def accounts(settings: Settings) -> list[Account]:
    """The providers that the settings name, in order."""
    rates = {"pollinations": settings.pollinations_rate_limit, "openai": settings.openai_rate_limit}
    limits = {
        name: Limits(
            rates=() if rate is None else (RateLimit.parse(rate),),
            at_once=settings.provider_at_once,
            line=settings.max_queue,
            wait_s=settings.provider_wait_s,
            hurry_s=settings.max_wait_s,
        )
        for name, rate in rates.items()
    }
    known = {
        "offline": Account(
            provider="offline",
            limits=Limits(
                at_once=settings.render_threads,
                line=settings.max_queue,
                wait_s=None,
                hurry_s=settings.max_wait_s,
            ),
        ),
        "pollinations": Account(
            provider="pollinations",
            limits=limits["pollinations"],
            url=settings.pollinations_url,
            model=settings.pollinations_model,
            key=settings.pollinations_key,
            key_file=settings.pollinations_key_file,
            timeout_s=settings.provider_timeout_s,
            use_proxies=settings.use_proxies,
        ),
        "openai": Account(
            provider="openai",
            limits=limits["openai"],
            url=settings.openai_url,
            model=settings.openai_model,
            key=settings.openai_key,
            key_file=settings.openai_key_file,
            keyed=settings.openai_keyed,
            omit=settings.openai_omit,
            timeout_s=settings.provider_timeout_s,
            use_proxies=settings.use_proxies,
        ),
    }
    return [known[name] for name in settings.providers]


def _most_creating(settings: Settings) -> int:
    """How many connections may be taken by calls that make pictures; fewer if few files may be open."""
    reserved = settings.reserved_connections
    if reserved is None:
        reserved = min(max(1, settings.max_connections // 10), settings.max_connections - 1)
    by_files = last_for_connections() * 9 // 10 - _OPEN_FILES
    return max(1, min(settings.max_connections - reserved, by_files))


def _key_meter(settings: Settings, records: Records) -> Counting | None:
    if settings.database_url is None or settings.key_rate_limit is None:
        return _meter(settings.key_rate_limit)
    return SharedMeter(RateLimit.parse(settings.key_rate_limit), records)


def _meter(rate: str | None) -> Meter | None:
    if rate is None:
        return None
    limit = RateLimit.parse(rate)
    return Meter(limit.amount, limit.per_s, clock=time.monotonic)


def _check_parser() -> None:
    # Most of aiohttp's advisories about request smuggling concern only its pure Python parser.
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigurationError(
            "aiohttp would parse HTTP in pure Python here, which is not safe enough for a server; "
            "unset AIOHTTP_NO_EXTENSIONS, or install an aiohttp wheel built for this platform"
        )


def _now() -> datetime:
    return datetime.now(UTC)
