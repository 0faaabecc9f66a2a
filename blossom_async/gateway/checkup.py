"""What is wrong with a gateway's settings and surroundings, and what to do: the checks of ``blossom doctor``.

Nothing is made, changed or paid: providers are only asked for their models.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import sqlalchemy as sa

from blossom_async.errors import BlossomError, ConfigurationError
from blossom_async.gateway.advisories import advice
from blossom_async.gateway.app import accounts, credentials
from blossom_async.gateway.background.webhooks import receiver
from blossom_async.gateway.making.accounts import connected
from blossom_async.gateway.making.places import places
from blossom_async.gateway.making.upstreams import Upstream, Upstreams
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers.faults import ProviderFault, to_error
from blossom_async.gateway.serving.signing import Signer
from blossom_async.gateway.settings import Settings, check_keys
from blossom_async.gateway.storage.records import schema
from blossom_async.gateway.storage.records.inserting import now_s
from blossom_async.headers import HEADER_LIMITS

__all__ = ["Finding", "examined"]

_PATIENCE_S = 15.0
_SKEW_S = 30.0
_LITTLE = 1 << 30  # bytes

_Answer = dict[str, Any]


@attrs.frozen
class Finding:
    """One thing that was looked at: ``level`` is ``ok``, ``warning`` or ``error``, ``todo`` what to do."""

    level: str
    what: str
    seen: str
    todo: str = ""


async def examined(settings: Settings, *, url: str | None, api_key: str | None) -> AsyncIterator[Finding]:
    """Everything, in turn. ``url`` is where viewers reach the running gateway, over its CDN or proxy."""
    for finding in (
        *_wiring(settings),
        *_exposure(settings),
        *await asyncio.to_thread(lambda: [*_folder(settings.data_dir)]),
    ):
        yield finding
    yield await _bounded("database", _database(settings))
    if settings.blobs is not None:
        yield await _bounded("bucket", _bucket(settings))
    async for finding in _providers(settings):
        yield finding
    if url is not None:
        async for finding in _proxy(settings, url.rstrip("/"), api_key):
            yield finding


def _wiring(settings: Settings) -> Iterator[Finding]:
    """What would keep the gateway from starting, of settings that depend on each other or on files."""
    checks: dict[str, Callable[[], object]] = {
        "signing_secrets": lambda: settings.signing_secrets and Signer(settings.signing_secrets),
        "webhooks": lambda: receiver(settings.webhook_url, settings.webhook_secret),
        "C2PA": lambda: credentials(settings),
    }
    for what, check in checks.items():
        try:
            check()
        except ConfigurationError as exc:
            yield Finding("error", what, str(exc), "correct that, or the gateway does not start")


def _exposure(settings: Settings) -> Iterator[Finding]:
    exposed = not settings.local or settings.public_url is not None
    for sentence in advice(exposed=exposed, decodes=settings.providers != ("offline",)):
        yield Finding("warning", "packages", sentence)
    if not settings.local and settings.public_url is None:
        yield Finding(
            "warning",
            "public_url",
            f"it is not set, so URLs begin with http://{settings.host}:{settings.port}",
            "set BLOSSOM_PUBLIC_URL to what viewers use",
        )
    if settings.public_url is not None and settings.public_url.startswith("http:"):
        yield Finding(
            "warning",
            "public_url",
            "URLs begin with http://, so signatures and keys can be read on the way",
            "let a proxy with a certificate answer https, and set BLOSSOM_PUBLIC_URL to that",
        )
    if settings.public_url is not None and not settings.trusted_proxies and settings.local:
        yield Finding(
            "warning",
            "trusted_proxies",
            "there is a public_url and no trusted proxy: every viewer seems to have the proxy's address",
            "set BLOSSOM_TRUSTED_PROXIES to the proxy's address, such as 127.0.0.1",
        )
    if settings.daily_budget is None and settings.providers != ("offline",):
        yield Finding(
            "warning",
            "daily_budget",
            "an API key may spend without limit",
            "set BLOSSOM_DAILY_BUDGET to US dollars a day, or give keys budgets of their own",
        )


def _folder(folder: Path) -> Iterator[Finding]:
    what = "data folder"
    there = True  # as far as can be seen: the way to it may be closed to this user
    try:
        there = folder.exists()
        written = folder if there else next(parent for parent in folder.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=written) as file:
            file.write(b"\0")
            file.flush()
    except OSError as exc:
        yield Finding(
            "error",
            what,
            f"{folder} cannot be {'written' if there else 'created'} ({exc.strerror})",
            "give it to the gateway's user, make room, or choose another with BLOSSOM_DATA_DIR",
        )
        return
    if not there:
        yield Finding("ok", what, f"{folder} does not exist yet; the gateway creates it")
        return
    if folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("warning", what, f"{folder} is open to other users", f"chmod 700 {folder}")
    free = shutil.disk_usage(folder).free
    if free < _LITTLE:
        yield Finding(
            "warning", what, f"{free >> 20} MiB are left on its disk", "make room, or set BLOSSOM_BLOBS"
        )
    yield Finding("ok", what, f"{folder} can be written, {free >> 30} GiB are free")


async def _bounded(what: str, looking: Any) -> Finding:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found: Finding = await looking
            return found
    except TimeoutError:
        return Finding(
            "error", what, f"no answer within {_PATIENCE_S:g} s", "see that it runs and is reached"
        )


async def _database(settings: Settings) -> Finding:
    what = "database"
    try:
        if isinstance(settings.database, Path) and not settings.database.exists():
            return Finding("ok", what, "there is none yet; the gateway creates it")
        return await asyncio.to_thread(_read_database, settings)
    except ConfigurationError as exc:
        return Finding("error", what, str(exc), "update this installation, or name another database")
    except OSError as exc:
        return Finding(
            "error", what, f"it cannot be reached ({exc.strerror})", "see to the data folder first"
        )
    except (sa.exc.SQLAlchemyError, sqlite3.Error, ImportError) as exc:
        reason = str(getattr(exc, "orig", None) or exc).splitlines()[0]
        todo = (
            "start it, and check BLOSSOM_DATABASE_URL"
            if settings.database_url
            else "restore it from a backup"
        )
        return Finding("error", what, f"it cannot be read ({reason})", todo)


def _read_database(settings: Settings) -> Finding:
    what = "database"
    if settings.database_url is None:
        uri = f"{Path(settings.database).as_uri()}?mode=ro"
        engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=5))
    else:
        engine = sa.create_engine(
            settings.database_url, connect_args={"connect_timeout": 5}, hide_parameters=True
        )
    try:
        with engine.connect() as connection:
            keys = schema.version("database", connection) is not None and _has_keys(connection)
            skew_s = abs(now_s(connection) - time.time())
            if skew_s > _SKEW_S:
                return _wrong_clock("database", skew_s)
    finally:
        engine.dispose()
    try:
        check_keys(settings, stored=keys)
    except ConfigurationError as exc:
        return Finding("error", "API keys", str(exc), "make one, as it says")
    return Finding("ok", what, "it can be read, and has a schema that this version knows")


def _has_keys(connection: sa.Connection) -> bool:
    valid = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE revoked_at IS NULL)"
    return bool(connection.exec_driver_sql(valid).scalar())


async def _bucket(settings: Settings) -> Finding:
    pictures, _ = places(settings.blobs, settings.data_dir)
    try:
        await pictures.open()
    except BlossomError as exc:
        return Finding("error", "bucket", str(exc), "correct BLOSSOM_BLOBS, or the store's credentials")
    finally:
        await pictures.close()
    return Finding("ok", "bucket", "it can be read and written")


async def _providers(settings: Settings) -> AsyncIterator[Finding]:
    upstreams, workers = Upstreams(), Workers(1)
    try:
        async with connected(upstreams, accounts(settings), workers):
            for upstream in upstreams:
                yield await _bounded(f"provider {upstream.name}", _provider(upstream))
    except ConfigurationError as exc:
        yield Finding("error", "providers", str(exc), "correct that setting")
    finally:
        workers.close()


async def _provider(upstream: Upstream) -> Finding:
    what = f"provider {upstream.name}"
    try:
        models = await upstream.provider.models()
    except ProviderFault as fault:
        return Finding("error", what, str(fault), to_error(fault).detail)
    said = "draws here" if not upstream.provider.remote else f"answers, and offers {len(models)} models"
    return Finding("ok", what, said)


async def _proxy(settings: Settings, url: str, api_key: str | None) -> AsyncIterator[Finding]:
    what, headers = f"{url}", {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    async with aiohttp.ClientSession(
        timeout=timeout, headers=headers, trust_env=True, **HEADER_LIMITS
    ) as http:
        try:
            status, seen, health = await _get(http, f"{url}/healthz")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
            yield Finding("error", what, f"no answer ({reason})", "check DNS, certificate and the proxy")
            return
        if status != 200 or health.get("service") != "blossom":
            todo = "let the proxy pass every path on to the gateway, unchanged"
            yield Finding("error", what, f"/healthz answers {status}, and not as a gateway", todo)
            return
        if (there := seen.get("Date")) is not None:
            skew_s = abs((parsedate_to_datetime(there) - datetime.now(UTC)).total_seconds())
            if skew_s > _SKEW_S:
                yield _wrong_clock(what, skew_s)
        if health.get("public_url") != url:
            yield Finding(
                "warning",
                what,
                f"the gateway's URLs begin with {health.get('public_url')}",
                f"set BLOSSOM_PUBLIC_URL={url} if viewers use that",
            )
        if "Age" in seen or "hit" in seen.get("X-Cache", "").lower():
            todo = "let it obey Cache-Control: no-store"
            yield Finding("error", what, "the proxy answers /healthz from its cache", todo)
        status, _, connection = await _get(http, f"{url}/v1/connection")
        if status == 401 and api_key is not None:
            todo = "let it pass Authorization on; if it does, give this gateway's key in BLOSSOM_API_KEY"
            yield Finding("error", what, "the API key does not arrive, or is not this gateway's", todo)
        elif status != 200:
            todo = "set BLOSSOM_API_KEY to one of the gateway's keys"
            yield Finding(
                "warning", what, f"its headers cannot be checked: /v1/connection answers {status}", todo
            )
        else:
            yield _forwarded(settings, what, connection)


def _forwarded(settings: Settings, what: str, connection: _Answer) -> Finding:
    peer, address, hops = connection["peer"], connection["address"], connection["forwarded"]
    if not connection["trusted"]:
        if not hops:
            return Finding("ok", what, f"the gateway sees {peer}, with no proxy between")
        return Finding(
            "error",
            what,
            f"requests come from {peer}, which is not trusted: it is taken for every viewer",
            f"add {peer} to BLOSSOM_TRUSTED_PROXIES, if that is your proxy",
        )
    if address is None:
        return Finding(
            "error",
            what,
            f"the proxy {peer} is trusted, and says nothing usable in X-Forwarded-For",
            "let it add the viewer's address: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        )
    return Finding("ok", what, f"through {hops} proxies the gateway sees the viewer {address}")


async def _get(http: aiohttp.ClientSession, url: str) -> tuple[int, Any, _Answer]:
    async with http.get(url, allow_redirects=False) as answer:
        try:
            body = await answer.json(content_type=None)
        except ValueError:
            body = None
        return answer.status, answer.headers, body if isinstance(body, dict) else {}


def _wrong_clock(where: str, skew_s: float) -> Finding:
    return Finding(
        "error",
        "clock",
        f"{where} and this machine differ by {skew_s:.0f} s: URLs expire too early or too late",
        "let both keep time by NTP (timedatectl set-ntp true)",
    )
