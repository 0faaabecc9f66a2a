"""Renders pages from templates. All values are escaped, and no page loads anything from another site."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiohttp import web

from blossom_async.gateway.dashboard.placeholders import placeholder
from blossom_async.gateway.storage.records import ImageRecord

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["ASSETS", "HEADERS", "asset_routes", "money", "render", "rules", "short", "size", "span", "state"]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would send "Origin: null" with our own forms, which is refused.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every page."""

_FOLDER = files("blossom_async.gateway.dashboard")
_CONTENT_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def _assets() -> dict[str, tuple[str, bytes, str]]:
    """For each file its path, bytes and media type."""
    found = {}
    for name in ("style.css", "icon.svg", "copy.js"):
        stem, _, kind = name.partition(".")
        data = (_FOLDER / name).read_bytes()
        path = f"/dashboard/{stem}-{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
        found[name] = (path, data, _CONTENT_TYPES[kind])
    return found


ASSETS = _assets()


def asset_routes() -> list[web.RouteDef]:
    """The stylesheet, the icon and the script. Their paths contain a hash of their bytes."""
    return [web.get(path, _asset(data, kind)) for path, data, kind in ASSETS.values()]


def _asset(data: bytes, content_type: str) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return web.Response(body=data, content_type=content_type, charset="utf-8", headers=headers)

    return answer


def render(name: str, now: datetime, **shown: Any) -> str:
    """The page as HTML. Call it in a thread: the first call imports Jinja, which takes 100 ms."""
    return _environment().get_template(name).render(now=now, **shown)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("blossom_async.gateway.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "age": _age,
        "count": _count,
        "cut": _cut,
        "day": short,
        "money": money,
        "moment": lambda moment: f"{moment.day} {moment:%b %Y, %H:%M} UTC",
        "placeholder": _placeholder,
        "path_part": lambda text: quote(text, safe=""),
        "size": size,
        "visible": _visible,
    }
    environment.globals |= {
        "assets": {name: path for name, (path, _, _) in ASSETS.items()},
        "money": money,
        "rules": rules,
        "state": state,
    }
    return environment


def state(picture: ImageRecord, now: datetime) -> str:
    """``live``, ``expired`` or ``deleted``."""
    if picture.deleted_at is not None:
        return "deleted"
    return "expired" if picture.has_expired(now) else "live"


def rules(picture: ImageRecord) -> list[tuple[str, str]]:
    """For each access rule of a picture a word for a badge and a sentence."""
    wish = picture.request
    found = []
    if wish.allowed_domains is not None:
        found.append(("sites", f"Only on pages of {_listed(wish.allowed_domains)}."))
    if wish.ip_whitelist is not None:
        found.append(("addresses", f"Only from {_listed(wish.ip_whitelist)}."))
    if wish.require_auth:
        found.append(("API key", "Only with one of your API keys."))
    if wish.require_signature:
        found.append(("signed URL", "Only under a signed URL; the plain URL is refused."))
    return found


def size(number: float) -> str:
    """A number of bytes in a readable unit: ``1.2 MB``."""
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.5:
            return f"{number:.3g} {unit}"
    return f"{number / 1000:,.3g} TB"


def money(micro_dollars: int) -> str:
    """An amount in US dollars: ``$12.50``, and as many decimals as one below a dollar needs."""
    dollars = round(micro_dollars / 1_000_000, 4)
    if dollars >= 1:
        return f"${dollars:,.2f}"
    cents = f"{dollars:.4f}".removeprefix("0.")
    return f"$0.{cents[:2]}{cents[2:].rstrip('0')}"


def short(day: date) -> str:
    """A day without its year: ``27 Nov``."""
    return f"{day.day} {day:%b}"


def span(time: timedelta) -> str:
    """A duration in its largest unit, without its sign: ``3 hours``."""
    seconds = abs(int(time.total_seconds()))
    for unit, name in _UNITS:
        if seconds >= unit:
            number = seconds // unit
            return f"{number} {name}" if number == 1 else f"{number} {name}s"
    return "0 seconds"


def _age(moment: datetime, now: datetime) -> str:
    return f"in {span(moment - now)}" if moment > now else f"{span(now - moment)} ago"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def _placeholder(picture: ImageRecord) -> str | None:
    return picture.thumbhash and placeholder(picture.thumbhash, picture.width, picture.height)


def _visible(text: str) -> str:
    """Escapes control characters, which browsers drop or reject: ``\\x00``."""
    return text.translate(_CONTROL)


def _listed(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
