"""The handlers of the dashboard. Every page needs a session and shows the data of one tenant."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import attrs
from aiohttp import web

from blossom_async.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResponseError,
    ServerFailed,
    Unauthenticated,
)
from blossom_async.gateway.callers.admission import Admission
from blossom_async.gateway.callers.keys import MAIN_TENANT, ApiKeys
from blossom_async.gateway.counting.analytics import url_stats
from blossom_async.gateway.dashboard.comparing import chance
from blossom_async.gateway.dashboard.rendering import HEADERS, asset_routes, render, state
from blossom_async.gateway.dashboard.sessions import LIFETIME_S, Sessions
from blossom_async.gateway.dashboard.thumbnails import Thumbnails
from blossom_async.gateway.dashboard.timeline import Slot, by_hour, day_name, latest, timeline, views_by_day
from blossom_async.gateway.http.addresses import sender
from blossom_async.gateway.http.problems import ERROR_CODE
from blossom_async.gateway.making.generation import Generation
from blossom_async.gateway.making.orders import again
from blossom_async.gateway.making.variants import Variants, widths_below
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import ImageRecord, Records, overview, spending
from blossom_async.gateway.storage.records import traffic as traffic_records
from blossom_async.gateway.storage.records.traffic import Answered
from blossom_async.gateway.storage.records.views import campaign_views
from blossom_async.models import CONTENT_TYPES, IMAGE_ID, DayStats, GroupStats, ImageRequest, UrlStats

__all__ = ["Dashboard", "ErrorSeen"]

_PER_PAGE = 24
_MAX_WORDS = 200
_MAX_FORM = 4096  # bytes
_FORM_DEADLINE_S = 30.0
_OWN_PAGE = re.compile(
    rf"/(?:pictures/{IMAGE_ID}|campaigns(?:/[!-.0-~]+)?|spend|storage|traffic)?(?:\?[!-~]*)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VARIANTS = 12  # values of one metadata key that are shown
_NEWEST = 12  # pictures of a campaign
_FIRST_PAGE = "0"
_PAGES_BACK = 20  # that a link remembers
_DAY = timedelta(days=1)
_LEAST_DAYS = timedelta(days=13)
_ERRORS_KEPT = 1000
_ERRORS_SHOWN = 50
_HOURS_SHOWN = 48
_DAYS_SHOWN = 60
_DAYS_OF_SPENDING = 30
_PAYERS_SHOWN = 100
_ASKED = (attrgetter("pictures"), attrgetter("calls"))
_TROUBLES = (attrgetter("refused"), attrgetter("failed"))

_VISITOR: ContextVar[str | None] = ContextVar("blossom_visitor", default=None)
"""The tenant of the session that asks for a page."""

T = TypeVar("T")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Page = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


@attrs.frozen(kw_only=True)
class ErrorSeen:
    """An error that this gateway answered; ``route`` is a template, without the caller's values."""

    when: datetime
    status: int
    code: str
    route: str
    request_id: str


@attrs.frozen
class _Variant:
    value: str
    stats: GroupStats
    share: float  # of the views of its key, in percent
    picture: ImageRecord | None


@attrs.frozen
class _Lead:
    ahead: _Variant
    behind: _Variant
    chance: float  # of such a lead among equals


class Dashboard:
    """The pages below ``/``.

    Links begin with ``base``, the path of ``public_url``. ``delete`` deletes the picture of an id and a
    tenant, ``flush`` stores all views counted so far, and ``flush_traffic`` all answers. ``daily_budget`` is
    for keys without one of their own, in millionths of a US dollar. Only the main tenant sees the disk, the
    traffic and the errors that this gateway has answered.
    """

    def __init__(
        self,
        keys: ApiKeys,
        lookups: Lookups,
        records: Records,
        blobs: Blobs,
        workers: Workers,
        variants: Variants,
        generation: Generation,
        delete: Callable[[str, str], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
        flush_traffic: Callable[[], Awaitable[None]],
        sessions: Sessions,
        admission: Admission,
        *,
        public_url: str,
        base: str,
        widths: Collection[int],
        data_dir: Path,
        daily_budget: int | None = None,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
        now: Callable[[], datetime],
    ) -> None:
        self._keys = keys
        self._lookups = lookups
        self._records = records
        self._blobs = blobs
        self._variants = variants
        self._generation = generation
        self._delete = delete
        self._widths = widths
        self._flush = flush
        self._flush_traffic = flush_traffic
        self._public_url = public_url
        self._data_dir = data_dir
        self._daily_budget = daily_budget
        self._trusted = tuple(trusted_proxies)
        self._now = now
        self._sessions = sessions
        self._admission = admission
        self._thumbnails = Thumbnails(blobs, workers)
        self._base = base
        self._secure = public_url.startswith("https:")
        self._cookie = "__Host-blossom" if self._secure else "blossom"
        self._errors: deque[ErrorSeen] = deque(maxlen=_ERRORS_KEPT)

    def routes(self) -> list[web.RouteDef]:
        """All routes of the dashboard."""
        return [
            web.get("/", self._page(self.pictures)),
            web.get("/pictures/{id}", self._page(self.picture)),
            web.post("/pictures/{id}/delete", self._page(self.delete)),
            web.post("/pictures/{id}/again", self._page(self.make_again)),
            web.get("/campaigns", self._page(self.campaigns)),
            web.get("/campaigns/{tracking_id:.+}", self._page(self.campaign)),
            web.get("/storage", self._page(self.storage)),
            web.get("/spend", self._page(self.spend)),
            web.get("/traffic", self._page(self.traffic)),
            web.get("/login", self.login_form),
            web.post("/login", self.login),
            web.post("/logout", self.logout),
            web.get("/dashboard/pictures/{id}", self.whole),
            web.get("/dashboard/pictures/{id}/w{width:[0-9]{2,4}}", self.narrowed),
            web.get("/dashboard/thumbnails/{id}", self.thumbnail),
            *asset_routes(),
        ]

    async def note(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal of aiohttp before each answer: records errors."""
        code = response.get(ERROR_CODE) if response.status >= 400 else None
        if code is None:
            return
        resource = request.match_info.route.resource
        self._errors.append(
            ErrorSeen(
                when=self._now(),
                status=response.status,
                code=code,
                route="no such path"
                if resource is None
                else f"{request.method} {resource.canonical.replace('{_}', '{id}')}",
                request_id=response.headers.get("X-Request-Id", ""),
            )
        )

    async def login_form(self, http: web.Request) -> web.Response:
        """200 with the form; ``next`` is the page to open after it."""
        return await self._answer("login.html", next=_own_page(http.query.get("next")), wrong="")

    async def login(self, http: web.Request) -> web.Response:
        """303 with a session cookie for a valid API key; otherwise the form with an error."""
        try:
            self._check_same_site(http)
            form = await _form(http)
            key = form.get("key", "").strip()
            holder = await self._keys.caller(f"Bearer {key}", sender(http, self._trusted))
        except Unauthenticated:
            wrong = "This key does not open this gateway. Check that you copied all of it."
            answer = await self._answer("login.html", 401, next=_own_page(form.get("next")), wrong=wrong)
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        except ResponseError as exc:
            return await self._failure(exc, None)
        await self._sessions.end(http.cookies.get(self._cookie, ""))
        answer = self._see_other(_own_page(form.get("next")))
        answer.set_cookie(
            self._cookie,
            await self._sessions.begin(holder.tenant, key),
            max_age=LIFETIME_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._secure,
        )
        return answer

    async def logout(self, http: web.Request) -> web.Response:
        """Ends the session; 303 to the form."""
        try:
            self._check_same_site(http)
        except ResponseError as exc:
            return await self._failure(exc, None)
        await self._sessions.end(http.cookies.get(self._cookie, ""))
        answer = self._see_other("/login")
        answer.del_cookie(self._cookie, path="/", httponly=True, samesite="Strict", secure=self._secure)
        return answer

    async def pictures(self, http: web.Request, tenant: str) -> web.Response:
        """The pictures past ``past`` that match ``q`` and ``state``, made on the days chosen, by age."""
        words = http.query.get("q", "").strip()
        wanted = http.query.get("state", "")
        if len(words) > _MAX_WORDS:
            raise InvalidRequest("q", words, f"at most {_MAX_WORDS} characters")
        if wanted not in ("", *overview.STATES):
            raise InvalidRequest("state", wanted, f"one of {', '.join(overview.STATES)}")
        sort = http.query.get("sort", "")
        if sort not in ("", "newest", "oldest"):
            raise InvalidRequest("sort", sort, "newest or oldest")
        oldest = sort == "oldest"
        past = _past(http.query.get("past"))
        first, last = _days(http)
        made = overview.Span(
            since=None if first is None else _start(first),
            until=None if last is None or last == date.max else _start(last + _DAY),
        )
        now = self._now()
        question = partial(
            overview.page, tenant, words, wanted, past, _PER_PAGE, now, made=made, oldest=oldest
        )
        page = await self._records.study(question)
        seen = await self._records.study(partial(overview.views_of, page.pictures))
        number, more = len(page.pictures), False
        if past is not None or page.next is not None:  # else these are all
            counting = partial(overview.number, tenant, words, wanted, made, now)
            number, more = await self._records.study(counting)
        asked = {
            "q": words,
            "state": wanted,
            "from": str(first or ""),
            "to": str(last or ""),
            "sort": "oldest" if oldest else "",
        }
        here = _FIRST_PAGE if past is None else overview.cursor(past)
        back = _back(http.query.get("back", ""))
        following = preceding = None
        if page.next is not None:
            trail = ".".join([*back, here][-_PAGES_BACK:])
            following = _query(**asked, past=overview.cursor(page.next), back=trail)
        if past is not None and back:
            preceding = _query(**asked, past=back[-1].removeprefix(_FIRST_PAGE), back=".".join(back[:-1]))
        return await self._answer(
            "pictures.html",
            pictures=page.pictures,
            seen=seen,
            words=words,
            wanted=wanted,
            first=first,
            last=last,
            number=number,
            more=more,
            states=overview.STATES,
            oldest=oldest,
            following=following,
            preceding=preceding,
            beginning=None if past is None else _query(**asked),
        )

    async def picture(self, http: web.Request, tenant: str) -> web.Response:
        """Everything known about one picture."""
        picture = await self._known(http.match_info["id"], tenant)
        days = await self._records.study(partial(overview.days_of, picture))
        return await self._answer(
            "picture.html",
            picture=picture,
            url=f"{self._public_url}/image/{picture.id}",
            widths=widths_below(picture.request, picture.width, self._widths),
            days=days,
            chart=views_by_day(days, *_span(days, None, self._now().date())) if days else None,
            once=secrets.token_urlsafe(16),
        )

    async def delete(self, http: web.Request, tenant: str) -> web.Response:
        """Deletes the picture; 303 to the pictures."""
        self._check_same_site(http)
        picture = await self._known(http.match_info["id"], tenant)
        await self._delete(picture.id, tenant)
        self._thumbnails.drop(picture.id)
        return self._see_other("/")

    async def make_again(self, http: web.Request, tenant: str) -> web.Response:
        """Makes the picture again, with the same seed or another; 303 to the new one.

        The key that logged in pays, and its calls are counted. A form that is sent twice makes one picture.
        """
        self._check_same_site(http)
        form = await _form(http)
        picture = await self._known(http.match_info["id"], tenant)
        if picture.deleted_at is not None:
            raise NotFound("The picture was deleted, and its prompt with it; it cannot be made again.")
        opened = await self._sessions.opened(http.cookies.get(self._cookie, ""))
        if opened is None:
            raise Unauthenticated("The session has just ended. Log in and press the button again.")
        caller, key = opened
        request = ImageRequest(**{**again(picture.request), "defer": False})
        async with self._admission.making(http, key):
            made, _ = await self._generation.create(
                attrs.evolve(request, seed=None) if form.get("seed") == "other" else request,
                tenant=tenant,
                payer=caller.name,
                key=f"dashboard {form.get('once') or secrets.token_urlsafe(16)}",
            )
        return self._see_other(f"/pictures/{made.id}")

    async def campaigns(self, _: web.Request, tenant: str) -> web.Response:
        """The campaigns with the newest pictures."""
        await self._flush()
        found = await self._records.study(partial(overview.campaigns, tenant))
        return await self._answer("campaigns.html", campaigns=found)

    async def campaign(self, http: web.Request, tenant: str) -> web.Response:
        """A campaign's views and viewers by day and by variant, including the days ``from`` and ``to``.

        Raises ``NotFound`` for a campaign that this tenant never had.
        """
        tracking_id = http.match_info["tracking_id"]
        first, last = _days(http)
        stats = await self._stats(tenant, tracking_id, first or _EPOCH.date(), last or date.max)
        shown = {key: _most_viewed(groups) for key, groups in sorted(stats.by_metadata.items())}
        labels = {(key, value) for key, groups in shown.items() for value in groups}
        number, newest, examples = await self._records.study(
            partial(overview.campaign_pictures, tenant, tracking_id, _NEWEST, labels)
        )
        days = stats.by_day
        return await self._answer(
            "campaign.html",
            tracking_id=tracking_id,
            first=first,
            last=last,
            stats=stats,
            chart=views_by_day(days, *_span(days, first, last)) if days else None,
            groups={
                key: _variants(
                    groups, stats.by_metadata[key], {value: examples.get((key, value)) for value in groups}
                )
                for key, groups in shown.items()
            },
            lead=_lead,
            number=number,
            pictures=newest,
        )

    async def storage(self, _: web.Request, tenant: str) -> web.Response:
        """The files of the tenant's pictures; for the main tenant also the disk."""
        return await self._answer(
            "storage.html",
            by_format=await self._records.study(partial(overview.stored, tenant)),
            disk=await asyncio.to_thread(_disk, self._data_dir) if tenant == MAIN_TENANT else None,
        )

    async def spend(self, _: web.Request, tenant: str) -> web.Response:
        """What the tenant's keys have spent in 30 days, and today's budgets; for the main tenant all keys."""
        last = _number(self._now().date())
        first = last - _DAYS_OF_SPENDING + 1
        of = None if tenant == MAIN_TENANT else tenant
        found = await self._records.study(partial(spending.overview, of, first, last, _PAYERS_SHOWN))
        return await self._answer(
            "spend.html",
            found=found,
            chart=timeline(
                [
                    Slot(name=day_name(day), values=(found.by_day.get(day, 0),))
                    for day in range(first, last + 1)
                ]
            ),
            daily_budget=self._daily_budget,
        )

    async def traffic(self, http: web.Request, tenant: str) -> web.Response:
        """What all gateways have answered, by hour or ``by=day``, and the latest errors of this one."""
        if tenant != MAIN_TENANT:
            raise PermissionDenied(
                "Only keys of the main tenant see the traffic, as it is that of all tenants. Log in with one."
            )
        by = http.query.get("by", "hour")
        if by not in ("hour", "day"):
            raise InvalidRequest("by", by, "hour or day")
        await self._flush_traffic()
        hours = _HOURS_SHOWN if by == "hour" else 24 * _DAYS_SHOWN
        first, last = latest(hours, self._now())
        found = dict(await self._records.study(partial(traffic_records.between, first, last)))
        errors = list(self._errors)
        return await self._answer(
            "traffic.html",
            by=by,
            sum=sum(found.values(), Answered()),
            requests=by_hour(found, first, last, hours_each=1 if by == "hour" else 24, of=_ASKED),
            troubles=by_hour(found, first, last, hours_each=1 if by == "hour" else 24, of=_TROUBLES),
            counts=Counter((error.status, error.code) for error in errors).most_common(),
            errors=errors[: -_ERRORS_SHOWN - 1 : -1],
        )

    async def whole(self, http: web.Request) -> web.Response:
        """The picture itself, for its owner, whatever its rules say. No view is counted."""
        picture = await self._own_picture(http)
        file = picture.main_file
        data = await self._stored(self._blobs.read(picture.id, file.format))
        return _picture(data, CONTENT_TYPES[file.format])

    async def narrowed(self, http: web.Request) -> web.Response:
        """The picture in one of its widths, likewise for its owner."""
        picture = await self._own_picture(http)
        width = int(http.match_info["width"])
        if width not in widths_below(picture.request, picture.width, self._widths):
            raise NotFound("the picture is not served in this width")
        variant = await self._stored(self._variants.get(picture, picture.main_file, width))
        if variant is None:
            raise NotFound("the picture is gone")
        data = await self._stored(self._blobs.read(variant.id, variant.file.format))
        return _picture(data, CONTENT_TYPES[variant.file.format])

    async def thumbnail(self, http: web.Request) -> web.Response:
        """The thumbnail, likewise for its owner."""
        picture = await self._own_picture(http)
        return _picture(await self._stored(self._thumbnails.get(picture)), "image/webp")

    async def _stats(self, tenant: str, tracking_id: str, first: date, last: date) -> UrlStats:
        await self._flush()
        days = _number(first), _number(last)
        found = await self._records.study(partial(campaign_views, tenant, tracking_id, *days))
        if found is None:
            raise NotFound("No picture was ever made for this campaign; go back to the campaigns.")
        return url_stats(tracking_id, found.days, found.groups)

    def _page(self, page: _Page) -> _Handler:
        """Wraps a page: without a session it redirects to the form, and it shows errors as pages."""

        async def answer(http: web.Request) -> web.StreamResponse:
            tenant = None
            try:
                tenant = await self._tenant(http)
                _VISITOR.set(tenant)
                if tenant is None:
                    asked = _own_page(http.raw_path)
                    return self._see_other("/login" if asked == "/" else f"/login?{_query(next=asked)}")
                return await page(http, tenant)
            except InvalidRequest as exc:
                return await self._failure(
                    ResponseError(str(exc), status=422, code="invalid_request"), tenant
                )
            except ResponseError as exc:
                return await self._failure(exc, tenant)

        return answer

    async def _tenant(self, http: web.Request) -> str | None:
        token = http.cookies.get(self._cookie)
        return None if token is None else await self._sessions.tenant(token)

    async def _known(self, image_id: str, tenant: str) -> ImageRecord:
        picture = await self._lookups.image(image_id)
        if picture is None or picture.tenant != tenant:
            raise NotFound("This gateway has no picture with this id; go back to the pictures.")
        return picture

    async def _own_picture(self, http: web.Request) -> ImageRecord:
        tenant = await self._tenant(http)
        if tenant is None:
            raise Unauthenticated("this picture needs a session; open / and log in")
        picture = await self._known(http.match_info["id"], tenant)
        if state(picture, self._now()) == "deleted":
            self._thumbnails.drop(picture.id)
            raise NotFound("the picture was deleted")
        return picture

    async def _stored(self, reading: Awaitable[T]) -> T:
        try:
            return await reading
        except FileNotFoundError as exc:
            raise NotFound("the bytes of the picture are not on the disk", code="bytes_missing") from exc

    async def _answer(self, template: str, status: int = 200, **shown: Any) -> web.Response:
        common = {"base": self._base, "operator": _VISITOR.get() == MAIN_TENANT}
        text = await asyncio.to_thread(render, template, self._now(), **common, **shown)
        return web.Response(status=status, text=text, content_type="text/html", headers=HEADERS)

    def _see_other(self, path: str) -> web.Response:
        return web.Response(status=303, headers={**HEADERS, "Location": f"{self._base}{path}"})

    async def _failure(self, error: ResponseError, tenant: str | None) -> web.Response:
        answer = await self._answer("error.html", error.status, error=error, logged_in=tenant is not None)
        answer[ERROR_CODE] = error.code
        if error.retry_after_s is not None:
            answer.headers["Retry-After"] = str(int(error.retry_after_s) + 1)
        return answer

    def _check_same_site(self, http: web.Request) -> None:
        """Raises ``PermissionDenied`` unless the browser says that a page of this gateway sent the form."""
        site = http.headers.get("Sec-Fetch-Site")  # only to https and to this machine
        origin = http.headers.get("Origin")
        own = {f"{scheme}://{http.host}" for scheme in ("http", "https")}
        public = urlsplit(self._public_url)
        own.add(f"{public.scheme}://{public.netloc}")
        if (
            (site is None and origin is None)
            or site not in (None, "same-origin")
            or (origin is not None and origin not in own)
        ):
            raise PermissionDenied(
                "The form did not come from a page of this gateway. Open the dashboard and try again there.",
                code="cross_site",
            )


def _most_viewed(groups: Mapping[str, GroupStats]) -> dict[str, GroupStats]:
    """The values of a metadata key that are shown, the most viewed first."""
    return dict(sorted(groups.items(), key=lambda group: (-group[1].views, group[0]))[:_VARIANTS])


def _variants(
    shown: Mapping[str, GroupStats],
    groups: Mapping[str, GroupStats],
    examples: Mapping[str, ImageRecord | None],
) -> list[_Variant]:
    """Those of all ``groups`` of a metadata key that are shown, each with an example."""
    total = sum(group.views for group in groups.values())
    return [
        _Variant(value, group, 100 * group.views / total if total else 0.0, examples[value])
        for value, group in shown.items()
    ]


def _lead(variants: Sequence[_Variant]) -> _Lead | None:
    """How the variant with the most viewers compares to the next; None if nobody has seen two of them."""
    best = sorted(variants, key=lambda variant: -variant.stats.viewers)[:2]
    if len(best) < 2 or best[0].stats.viewers == 0:
        return None
    ahead, behind = best
    return _Lead(ahead, behind, chance(ahead.stats.viewers, behind.stats.viewers))


def _span(days: Sequence[DayStats], first: date | None, last: date | None) -> tuple[date, date]:
    """The days of a chart: those asked for, else from the first view on, and no fewer than two weeks."""
    last = max(days[-1].date, last or days[-1].date)
    return first or min(days[0].date, last - _LEAST_DAYS), last


def _picture(data: bytes, content_type: str) -> web.Response:
    headers = {
        **HEADERS,
        "Cache-Control": "private, no-store",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return web.Response(body=data, content_type=content_type, headers=headers)


async def _form(http: web.Request) -> dict[str, str]:
    """The fields of a small form, with the first value of each. Raises ``ResponseError``."""
    if http.content_type != "application/x-www-form-urlencoded":
        raise ResponseError(
            "The body is not a form. Use the form of the dashboard.",
            status=415,
            code="unsupported_media_type",
        )
    body = b""
    try:
        async with asyncio.timeout(_FORM_DEADLINE_S):
            while len(body) <= _MAX_FORM and (part := await http.content.readany()):
                body += part
    except TimeoutError as exc:
        raise ResponseError(
            "The form did not arrive in time. Send it again.", status=408, code="request_timeout"
        ) from exc
    if len(body) > _MAX_FORM:
        raise ResponseError(
            f"The form is longer than {_MAX_FORM} bytes; allowed: an API key.", status=413, code="too_large"
        )
    fields = parse_qs(body.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}


def _own_page(path: str | None) -> str:
    """The path if it is a page of the dashboard, else ``/``: any other could lead to another site."""
    return path if path is not None and _OWN_PAGE.fullmatch(path) else "/"


def _query(**given: str) -> str:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items() if value)


def _past(text: str | None) -> tuple[datetime, str] | None:
    if text is None:
        return None
    found = overview.point_of(text)
    if found is None:
        raise InvalidRequest("past", text, "a value from a link of the dashboard; begin at /")
    return found


def _back(text: str) -> list[str]:
    """The cursors of the pages before this one, in order; the first page has ``0``."""
    cursors = text.split(".") if text else []
    if any(cursor != _FIRST_PAGE and overview.point_of(cursor) is None for cursor in cursors):
        raise InvalidRequest("back", text, "a value from a link of the dashboard; begin at /")
    return cursors


def _days(http: web.Request) -> tuple[date | None, date | None]:
    first, last = _day(http, "from"), _day(http, "to")
    if first is not None and last is not None and first > last:
        raise InvalidRequest("from", first.isoformat(), f"a day up to {last}")
    return first, last


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _day(http: web.Request, name: str) -> date | None:
    text = http.query.get(name, "")
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(name, text, "a day such as 2026-11-22") from None


def _number(day: date) -> int:
    return (day - _EPOCH.date()).days


def _disk(data_dir: Path) -> Mapping[str, int]:
    try:
        usage = shutil.disk_usage(data_dir)
        database = sum(file.stat().st_size for file in data_dir.glob("records.sqlite*"))
    except OSError as exc:
        raise ServerFailed("The data folder cannot be read. Check its owner and the disk.") from exc
    return {"database": database, "free": usage.free, "total": usage.total}
