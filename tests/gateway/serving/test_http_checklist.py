"""The HTTP checklist for pictures, row by row, over raw sockets to a running gateway.

Rows of the checklist, and the test that holds each; without a file name it is here.

    1 GET                         test_public.py: test_get_answers_with_the_picture_and_its_headers
    2 HEAD                        test_public.py: test_head_answers_as_get_without_range_and_without_body
    3 HEAD with Range             as row 2
    4 If-None-Match, a list       test_public.py: test_a_picture_the_client_has_is_304
    5 If-None-Match, weak         as row 4
    6 If-None-Match: *            as row 4
    7 If-None-Match on two lines  as row 4
    8 with If-Modified-Since      test_if_modified_since_counts_only_without_if_none_match
    9 bad If-Modified-Since       test_public.py: test_a_bad_if_modified_since_is_ignored
   10 If-Match                    test_public.py: test_a_failed_if_match_is_412_that_no_cache_stores
   11 condition while denied      test_conditions_and_ranges_tell_nothing_of_what_is_refused
   12 a range                     test_public.py: test_a_range_is_206
   13 suffix, open and clipped    as row 12
   14 unsatisfiable               test_public.py: test_a_range_beyond_the_picture_is_416_that_no_cache_stores
   15 another unit                test_public.py: test_a_range_that_cannot_be_served_gets_the_whole
   16 malformed, overlapping      as row 15, and test_a_thousand_ranges_are_one_picture
   17 several ranges              as row 15
   18 If-Range, current           test_public.py: test_a_matching_if_range_is_206
   19 If-Range, old or weak       as row 15
   20 Accept                      test_a_picture_in_several_formats_has_a_tag_for_each
   21 nothing acceptable          test_an_accept_that_cannot_be_read_gets_the_default
   22 Accept-Encoding             test_public.py: test_pictures_are_never_compressed_again
   23 another method              test_public.py: test_other_methods_are_405_and_say_which_are_allowed
   24 404, 403, 410               test_what_is_refused_is_said_by_its_status_and_never_stored
   25 401                         test_a_missing_key_is_401_with_a_challenge
   26 429, 503                    test_too_much_is_refused_with_whole_seconds_to_wait
   27 immutable                   test_immutable_is_said_only_where_bytes_and_url_stay
   28 stale-*                     test_a_picture_that_ends_is_never_to_be_served_stale
   29 shared caches and keys      test_nothing_lets_a_shared_cache_keep_what_only_some_may_see
   30 Age, Via, Cache-Status      test_the_gateway_is_no_cache_and_says_so
   31 headers against sniffing    test_every_picture_says_how_browsers_may_use_it
   32 CORS                        test_scripts_of_allowed_domains_may_read_a_picture_and_no_others
   33 Content-Disposition         test_a_picture_is_shown_in_the_page_under_a_safe_name; ?dl=1 is not offered
   34 Timing-Allow-Origin         not offered: load times are measured by the gateway, not by browsers
   35 Repr-Digest                 not offered: the entity tag is the SHA-256 of the bytes
   36 Server                      test_the_gateway_is_no_cache_and_says_so
   37 POST                        test_creating_answers_201_with_a_location
   38 a read that fails midway    test_public.py: test_a_read_that_fails_midway_cuts_the_connection

The second half are attacks; the docstrings have the number of the row in the table of attacks.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest

from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.serving.signing import Signer
from blossom_async.gateway.storage.records import ApiKey, Records
from blossom_async.gateway.storage.records import keys as key_records
from tests.conftest import KEY, running_gateway
from tests.effort import effort
from tests.thorough import thoroughly
from tests.waiting import LIMIT_S

SECRET = "of-the-checklist-0123456789-abcdefghijkl"
OTHER_KEY = "a-key-of-another-tenant-0123456789"
MINE = f"Authorization: Bearer {KEY}"
THEIRS = f"Authorization: Bearer {OTHER_KEY}"
UNKNOWN = "0" * 22
FORGERIES = int(os.environ.get("BLOSSOM_TEST_FUZZ", "2000"))
CONDITIONS = (
    ("If-None-Match: *",),
    ('If-None-Match: "guess"',),
    ("If-Match: *",),
    ('If-Match: "guess"',),
    ("If-Modified-Since: Sun, 22 Nov 2037 13:00:00 GMT",),
    ("If-Unmodified-Since: Sun, 22 Nov 1998 13:00:00 GMT",),
    ("Range: bytes=0-0",),
    ("Range: bytes=99999999-",),
    ("Range: bytes=0-0", 'If-Range: "guess"'),
)
PROXY_HEADERS = """
X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Server Forwarded
X-Original-URL X-Rewrite-URL X-Original-Host X-Host X-HTTP-Host-Override X-Real-IP True-Client-IP
CF-Connecting-IP Fastly-Client-IP X-Client-IP X-Cluster-Client-IP Via Surrogate-Capability X-Wap-
Profile X-ATT-DeviceId User-Agent Accept Accept-Language Accept-Charset Accept-Encoding Cookie
Cache-Control Pragma DNT TE Trailer Upgrade-Insecure-Requests Save-Data DPR Width Viewport-Width
Device-Memory Downlink ECT RTT Sec-CH-UA Sec-Fetch-Site Sec-Fetch-Mode Sec-Fetch-Dest Origin Referer
X-Requested-With X-CSRF-Token X-Api-Key X-User X-Accel-Redirect X-Sendfile X-Accel-Expires Max-
Forwards Warning Expires Age ETag Location Content-Type X-Amz-Website-Redirect-Location
"""


@attrs.frozen
class Answer:
    """One response as it came over the wire; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        code: str = orjson.loads(self.body)["code"]
        return code

    @property
    def told(self) -> tuple[object, ...]:
        """All that differs between two requests is left away."""
        changing = {"date", "x-request-id"}
        kept = {name: value for name, value in self.headers.items() if name not in changing}
        return self.status, kept, re.sub(rb'"request_id":"\w+"', b"", self.body)


def parsed(answer: bytes) -> Answer:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    pairs = [field.split(": ", 1) for field in fields]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "a header was sent twice"
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in pairs}, body)


@attrs.frozen
class House:
    """A running gateway, its port, and one more tenant."""

    port: int
    data_dir: Path

    async def send(self, request: bytes) -> bytes:
        """All that comes back until the gateway closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def ask(self, target: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
        """The answer to one request; target and lines go out byte for byte."""
        head = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]
        return parsed(await self.send("\r\n".join(head).encode("latin-1") + body))

    async def too_long(self, target: str, *lines: str) -> None:
        """Is refused unread: the answer may be lost with what is still on its way."""
        with suppress(ConnectionError):
            assert (await self.ask(target, *lines)).status in {400, 414, 431}

    async def call(self, path: str, key: str = MINE, method: str = "POST", **body: Any) -> Answer:
        data = orjson.dumps(body)
        lines = (key, "Content-Type: application/json", f"Content-Length: {len(data)}")
        return await self.ask(path, *lines, method=method, body=data)

    async def make(self, key: str = MINE, **options: Any) -> str:
        """The id of a new picture."""
        answer = await self.call("/v1/images", key, prompt="a lake", width=32, height=32, **options)
        assert answer.status == 201, answer.body
        image_id: str = orjson.loads(answer.body)["id"]
        return image_id

    async def sign(self, image_id: str, key: str = MINE, **options: Any) -> str:
        """The target of a signed URL."""
        answer = await self.call(f"/v1/images/{image_id}/signed-url", key, **options)
        assert answer.status == 200, answer.body
        url: str = orjson.loads(answer.body)["url"]
        return "/" + url.split("/", 3)[3]

    async def expired(self, **options: Any) -> str:
        """The id of a picture whose time was up a second ago."""
        image_id = await self.make(expires_in=60, **options)
        ended = int((time.time() - 1) * 1_000_000)
        with sqlite3.connect(self.data_dir / "records.sqlite") as database:
            database.execute("UPDATE images SET expires_at = ? WHERE id = ?", (ended, image_id))
        database.close()
        return image_id

    async def refused(self) -> list[tuple[str, tuple[str, ...], int]]:
        """A request for every way in which a picture is refused: target, lines, status."""
        public, private = await self.make(), await self.make(require_auth=True)
        signed = await self.make(require_signature=True)
        addresses = await self.make(ip_whitelist=["192.0.2.0/24"])
        sites = await self.make(allowed_domains=["myapp.com"])
        deleted, taken_back = await self.make(), await self.sign(signed, access_key="gone")
        assert (await self.call(f"/v1/images/{deleted}", method="DELETE")).status == 204
        assert (await self.call("/v1/access-keys/gone/revoke")).status == 204
        good = await self.sign(signed)
        access_id = good.partition("sig=")[2][4:16]
        late = Signer([SECRET]).sign(f"/image/{signed}", access_id, int(time.time()) - 1)
        expired = await self.expired()
        return [
            (f"/image/{public}?sig=x", (), 400),
            (f"/image/{public}?%73ig=x", (), 400),
            (f"/image/{private}", (), 401),
            (f"/image/{private}", ("Authorization: Bearer wrong-key-0123456789",), 401),
            (f"/image/{private}", (THEIRS,), 404),
            (f"/image/{signed}", (), 403),
            (forged(good), (), 403),
            (taken_back, (), 403),
            (f"/image/{addresses}", (), 403),
            (f"/image/{sites}", ("Referer: https://evil.com/",), 403),
            (f"/image/{UNKNOWN}", (), 404),
            (f"/generated/{public}.webp", (), 404),
            (f"/image/{public}/x.png", (), 404),
            (f"/image/{signed}?{late}", (), 410),
            (f"/image/{deleted}", (), 410),
            (f"/image/{expired}", (), 410),
        ]


def forged(target: str) -> str:
    """The target with another first character of the MAC."""
    head, _, mac = target.rpartition(".")
    return f"{head}.{'A' if mac[0] != 'A' else 'B'}{mac[1:]}"


@asynccontextmanager
async def house(folder: Path, **settings: Any) -> AsyncIterator[House]:
    changes = {"signing_secrets": (SECRET,), "failed_key_limit": "100000/min", **settings}
    async with running_gateway(folder, **changes) as running:
        records = Records(folder / "records.sqlite")
        await records.open()
        other = ApiKey(name="other", tenant="other", digest=digest(OTHER_KEY), created_at=datetime.now(UTC))
        await records.write(partial(key_records.add_api_key, other))
        await records.close()
        yield House(int(running.base_url.rpartition(":")[2]), folder)


# The checklist


async def test_if_modified_since_counts_only_without_if_none_match(tmp_path: Path) -> None:
    """Row 8: a tag that does not match is a 200, however new the copy is said to be."""
    async with house(tmp_path) as there:
        target = f"/image/{await there.make(etag='v1')}"
        since = f"If-Modified-Since: {(await there.ask(target)).headers['last-modified']}"
        assert (await there.ask(target, since)).status == 304
        assert (await there.ask(target, since, 'If-None-Match: "old"')).status == 200
        assert (await there.ask(target, since, 'If-None-Match: "v1"')).status == 304


async def test_what_is_refused_is_said_by_its_status_and_never_stored(tmp_path: Path) -> None:
    """Row 24: problem+json with `no-store`, and no header of a picture."""
    async with house(tmp_path) as there:
        for target, lines, status in await there.refused():
            answer = await there.ask(target, *lines)
            assert answer.status == status, target
            assert orjson.loads(answer.body)["status"] == status
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["cache-control"] == "no-store"
            assert not {"etag", "last-modified", "content-range", "accept-ranges", "vary"} & set(
                answer.headers
            )


async def test_conditions_and_ranges_tell_nothing_of_what_is_refused(tmp_path: Path) -> None:
    """Rows 11, 29 and 30: with any condition the very answer that there is without, by GET and by HEAD."""
    async with house(tmp_path) as there:
        for target, lines, _ in await there.refused():
            plain = await there.ask(target, *lines)
            head = await there.ask(target, *lines, method="HEAD")
            for condition in CONDITIONS:
                assert (await there.ask(target, *lines, *condition)).told == plain.told, (target, condition)
                also = await there.ask(target, *lines, *condition, method="HEAD")
                assert also.told == head.told, (target, condition)


async def test_a_picture_in_several_formats_has_a_tag_for_each(tmp_path: Path) -> None:
    """Row 20: the best by weight; `Vary: Accept` on each and on 304; one format's tag is not another's."""
    async with house(tmp_path) as there:
        for options in ({}, {"etag": "v1"}):
            target = f"/image/{await there.make(format='auto', **options)}"
            webp = await there.ask(target, "Accept: image/jpeg;q=0.5, image/webp")
            default = await there.ask(target)
            assert [a.headers["content-type"] for a in (webp, default)] == ["image/webp", "image/jpeg"]
            assert [a.headers["vary"] for a in (webp, default)] == ["Accept", "Accept"]
            assert webp.headers["etag"] != default.headers["etag"]
            condition = f"If-None-Match: {webp.headers['etag']}"
            unchanged = await there.ask(target, "Accept: image/webp", condition)
            assert (unchanged.status, unchanged.headers["vary"]) == (304, "Accept")
            other = await there.ask(target, condition)
            assert (other.status, other.body) == (200, default.body)


async def test_an_accept_that_cannot_be_read_gets_the_default(tmp_path: Path) -> None:
    """Row 21: no 406 and no 500, whatever it says."""
    async with house(tmp_path) as there:
        target = f"/image/{await there.make(format='auto')}"
        for accept in (
            "text/html",
            "image/gif;q=0",
            "image/webp;q=2",
            "image/webp;q=-1",
            ";;,,=",
            "\xff",
            "q",
        ):
            answer = await there.ask(target, f"Accept: {accept}")
            assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg"), accept
        assert (await there.ask(target, "Accept: " + "a/b;q=0.1," * 700)).status == 200


async def test_a_missing_key_is_401_with_a_challenge(tmp_path: Path) -> None:
    """Row 25: for pictures and for calls, by GET and by HEAD."""
    async with house(tmp_path) as there:
        for target in (f"/image/{await there.make(require_auth=True)}", f"/v1/images/{UNKNOWN}"):
            for method in ("GET", "HEAD"):
                answer = await there.ask(target, method=method)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_too_much_is_refused_with_whole_seconds_to_wait(tmp_path: Path) -> None:
    """Row 26: 429 and 503 have Retry-After as an integer."""
    async with house(tmp_path, key_rate_limit="1/min", max_connections=2) as there:
        assert (await there.ask(f"/v1/images/{UNKNOWN}", MINE)).status == 404
        answer = await there.ask(f"/v1/images/{UNKNOWN}", MINE)
        assert answer.status == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        idle = [await asyncio.open_connection("127.0.0.1", there.port) for _ in range(2)]
        for reader, writer in idle:  # answered, so that the gateway is sure to have taken them
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"}")
        full = await there.ask(f"/image/{UNKNOWN}")
        assert (full.status, full.headers["cache-control"]) == (503, "no-store")
        assert int(full.headers["retry-after"]) > 0
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()


async def test_immutable_is_said_only_where_bytes_and_url_stay(tmp_path: Path) -> None:
    """Row 27: of a public picture without an end, and of no other."""
    async with house(tmp_path) as there:
        public = await there.make()
        freshness = (await there.ask(f"/image/{public}")).headers["cache-control"]
        assert freshness == "public, max-age=31536000, immutable"
        others = [
            (await there.sign(public), ()),
            (f"/image/{await there.make(expires_in=60)}", ()),
            (f"/image/{await there.make(require_auth=True)}", (MINE,)),
            (f"/image/{await there.make(ip_whitelist=['127.0.0.1'])}", ()),
        ]
        for target, lines in others:
            answer = await there.ask(target, *lines)
            assert answer.status == 200
            assert "immutable" not in answer.headers["cache-control"]


async def test_a_picture_that_ends_is_never_to_be_served_stale(tmp_path: Path) -> None:
    """Row 28: `stale-*` is sent for public pictures that do not end, and for no others."""
    asked = "public, max-age=60, stale-while-revalidate=600, stale-if-error=600"
    async with house(tmp_path) as there:
        lasting = f"/image/{await there.make(cache_control=asked)}"
        assert (await there.ask(lasting)).headers["cache-control"] == asked
        for target in (
            f"/image/{await there.make(cache_control=asked, expires_in=60)}",
            await there.sign(lasting.rpartition("/")[2]),
        ):
            answer = await there.ask(target)
            assert answer.status == 200
            assert "stale" not in answer.headers["cache-control"]


async def test_nothing_lets_a_shared_cache_keep_what_only_some_may_see(tmp_path: Path) -> None:
    """Row 29: restricted and signed pictures are private on 200, 206 and 304; a wish for more is 422."""
    async with house(tmp_path) as there:
        restricted: list[tuple[dict[str, Any], tuple[str, ...]]] = [
            ({"require_auth": True}, (MINE,)),
            ({"ip_whitelist": ["127.0.0.1"]}, ()),
            ({"allowed_domains": ["myapp.com"]}, ("Referer: https://myapp.com/",)),
            ({"require_signature": True}, ()),
        ]
        for options, lines in restricted:
            image_id = await there.make(**options)
            target = await there.sign(image_id)
            for extra, status in (((), 200), (("Range: bytes=0-0",), 206), (("If-None-Match: *",), 304)):
                answer = await there.ask(target, *lines, *extra)
                assert answer.status == status
                named = {
                    part.strip().partition("=")[0] for part in answer.headers["cache-control"].split(",")
                }
                assert "private" in named
                assert not {"public", "s-maxage", "immutable"} & named
            wish = await there.call("/v1/images", prompt="a lake", cache_control="public", **options)
            assert (wish.status, orjson.loads(wish.body)["field"]) == (422, "cache_control")


async def test_the_gateway_is_no_cache_and_says_so(tmp_path: Path) -> None:
    """Rows 30 and 36: no Age, Via or Cache-Status; `Server` without a version; a Date; on every answer."""
    async with house(tmp_path) as there:
        refused = [(target, lines) for target, lines, _ in await there.refused()]
        public = f"/image/{await there.make()}"
        good = [(public, ()), (public, ("Range: bytes=0-0",)), (public, ("If-None-Match: *",))]
        for target, lines in [
            *good,
            *refused,
            ("/", ()),
            ("/nothing", ()),
            (f"/v1/images/{UNKNOWN}", (MINE,)),
        ]:
            for method in ("GET", "HEAD", "OPTIONS", "POST"):
                answer = await there.ask(target, *lines, method=method)
                assert answer.headers["server"] == "blossom"
                assert "date" in answer.headers
                assert not {"age", "via", "cache-status", "x-cache", "x-powered-by"} & set(answer.headers)
        assert parsed(await there.send(b"nonsense\r\n\r\n")).headers["server"] == "blossom"


async def test_every_picture_says_how_browsers_may_use_it(tmp_path: Path) -> None:
    """Row 31: on 200, 206, 304 and HEAD: no sniffing, no scripts, no referrer; private ones in no index."""
    async with house(tmp_path) as there:
        public = await there.make()
        private = await there.make(require_auth=True)
        pictures: list[tuple[str, tuple[str, ...], str, bool]] = [
            (f"/image/{public}", (), "cross-origin", False),
            (await there.sign(public), (), "cross-origin", True),
            (f"/image/{private}", (MINE,), "same-site", True),
        ]
        for target, lines, policy, hidden in pictures:
            for extra, status in (((), 200), (("Range: bytes=0-0",), 206), (("If-None-Match: *",), 304)):
                answer = await there.ask(target, *lines, *extra)
                assert answer.status == status
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
                assert answer.headers["referrer-policy"] == "no-referrer"
                assert answer.headers["cross-origin-resource-policy"] == policy
                assert ("x-robots-tag" in answer.headers) == hidden


async def test_scripts_of_every_page_may_read_a_public_picture(tmp_path: Path) -> None:
    """Without credentials, on every status, and whatever the page: the answer is the same for all."""
    async with house(tmp_path) as there:
        public, signed = await there.make(), await there.make(require_signature=True)
        for target in (
            f"/image/{public}",
            await there.sign(public),
            f"/image/{await there.make(expires_in=60)}",
        ):
            for lines in ((), ("Origin: https://myapp.com",), ("Origin: null",)):
                for extra, status in (((), 200), (("Range: bytes=0-0",), 206), (("If-None-Match: *",), 304)):
                    answer = await there.ask(target, *lines, *extra)
                    assert answer.status == status
                    assert answer.headers["access-control-allow-origin"] == "*"
                    assert answer.headers["access-control-expose-headers"] == "ETag, Content-Length"
                    assert "access-control-allow-credentials" not in answer.headers
                    assert "vary" not in answer.headers
        preflight = await there.ask(f"/image/{public}", "Origin: https://myapp.com", method="OPTIONS")
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "Range" in preflight.headers["access-control-allow-headers"]
        for target in (await there.sign(signed), f"/image/{await there.make(ip_whitelist=['127.0.0.1'])}"):
            answer = await there.ask(target, "Origin: https://myapp.com")
            assert (answer.status, "access-control-allow-origin" in answer.headers) == (200, False)


async def test_scripts_of_allowed_domains_may_read_a_picture_and_no_others(tmp_path: Path) -> None:
    """Row 32: the origin is echoed to allowed ones only, with `Vary`; never `*`, never credentials."""
    async with house(tmp_path) as there:
        sites = f"/image/{await there.make(allowed_domains=['myapp.com'])}"
        good, evil = "Origin: https://myapp.com", "Origin: https://evil.com"
        for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 204)):
            answer = await there.ask(sites, good, method=method)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "https://myapp.com"
            assert "access-control-allow-credentials" not in answer.headers
            if method != "OPTIONS":
                assert answer.headers["access-control-expose-headers"] == "ETag, Content-Length"
                assert "Origin" in answer.headers["vary"]
        preflight = await there.ask(sites, good, "Access-Control-Request-Method: GET", method="OPTIONS")
        assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"
        assert int(preflight.headers["access-control-max-age"]) > 0
        known = await there.ask(sites, good, "If-None-Match: *")
        assert (known.status, known.headers["access-control-allow-origin"]) == (304, "https://myapp.com")
        for line in (evil, "Origin: null"):
            for method in ("GET", "HEAD", "OPTIONS"):
                answer = await there.ask(sites, line, method=method)
                assert "access-control-allow-origin" not in answer.headers


async def test_a_picture_is_shown_in_the_page_under_a_safe_name(tmp_path: Path) -> None:
    """Row 33: the name is the id; nothing of the prompt is in it, and no parameter makes it a download."""
    async with house(tmp_path) as there:
        image_id = await there.make(format="webp")
        for query, lines in (("", ()), ("?dl=1", ()), ("", ("Range: bytes=0-0",))):
            answer = await there.ask(f"/image/{image_id}{query}", *lines)
            assert answer.headers["content-disposition"] == f'inline; filename="{image_id}.webp"'


async def test_creating_answers_201_with_a_location(tmp_path: Path) -> None:
    """Row 37: never stored; the key that would replay it is said back; errors are problems."""
    async with house(tmp_path) as there:
        data = b'{"prompt": "a lake", "width": 32, "height": 32}'
        lines = (
            MINE,
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            "Idempotency-Key: k1",
        )
        made = await there.ask("/v1/images", *lines, method="POST", body=data)
        assert made.status == 201
        assert made.headers["location"] == f"/v1/images/{orjson.loads(made.body)['id']}"
        assert made.headers["cache-control"] == "no-store"
        assert made.headers["idempotency-key"] == "k1"
        again = await there.ask("/v1/images", *lines, method="POST", body=data)
        assert (again.body, again.headers["idempotent-replayed"]) == (made.body, "true")
        for body in (b"{", b"[]", b'{"prompt": ""}', b'{"prompt": "x", "colour": 1}'):
            typed = (MINE, "Content-Type: application/json", f"Content-Length: {len(body)}")
            answer = await there.ask("/v1/images", *typed, method="POST", body=body)
            assert answer.status in {400, 422}
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["cache-control"] == "no-store"


# Signatures


async def test_a_signed_url_needs_all_of_its_parameters(tmp_path: Path) -> None:
    """Row 1: every subset but the whole is refused; without any it is what a bad signature is told."""
    async with house(tmp_path) as there:
        target = await there.sign(await there.make(require_signature=True))
        path, _, query = target.partition("?")
        exp, sig = query.split("&")
        assert (await there.ask(target)).status == 200
        assert (await there.ask(f"{path}?{sig}&{exp}")).status == 200
        bare, bad = await there.ask(path), await there.ask(forged(target))
        assert bare.told == bad.told
        assert (bare.status, bare.code) == (403, "bad_signature")
        for part in (exp, sig, "", f"{exp}&sig=", f"exp=&{sig}", f"{exp}&sig", f"exp&{sig}"):
            answer = await there.ask(f"{path}?{part}")
            assert answer.status in {400, 403}, part


async def test_parameters_are_those_of_a_signed_url_each_once(tmp_path: Path) -> None:
    """Rows 7, 8 and 9: repeated, further and oddly separated parameters are 400."""
    async with house(tmp_path) as there:
        target = await there.sign(await there.make())
        path, _, query = target.partition("?")
        exp, sig = query.split("&")
        for wrong in (
            *(f"{a}&{b}&{c}" for a in (exp, sig) for b in (exp, sig) for c in (exp, sig)),
            *(f"{query}&{extra}" for extra in ("sig=x", "exp=1", "width=9", "utm=1", "a", "=", "x=%20")),
            *(f"{extra}&{query}" for extra in ("sig=x", "exp=1", "width=9", "utm=1", "")),
            f"{exp};{sig}", f"{exp}&&{sig}", f"{query}&", f"?{query}", f"{query}?", f"{query}#x",
            f"{exp}&amp;{sig}", f"{exp}&SIG={sig[4:]}", f"{exp}&sig[]={sig[4:]}",
        ):  # fmt: skip
            answer = await there.ask(f"{path}?{wrong}")
            assert answer.status in {400, 404}, wrong
            assert answer.headers["cache-control"] == "no-store"


async def test_nothing_of_a_signed_url_may_be_encoded(tmp_path: Path) -> None:
    """Rows 10, 11 and 12: any byte percent-encoded, in query or path, is another URL."""
    async with house(tmp_path) as there:
        target = await there.sign(await there.make())
        path, _, query = target.partition("?")
        for at in range(len(query)):
            encoded = f"{query[:at]}%{ord(query[at]):02X}{query[at + 1 :]}"
            assert (await there.ask(f"{path}?{encoded}")).status in {400, 403}, encoded
        image_id = path.rpartition("/")[2]
        for strange in (
            *(f"{path[:at]}%{ord(path[at]):02x}{path[at + 1 :]}" for at in range(1, len(path))),
            f"/image//{image_id}", f"{path}/", f"/Image/{image_id}", f"{path}%00", f"/./image/{image_id}",
            f"/image/%c0%af{image_id}", f"/image/%ef%bc%90{image_id[1:]}", f"/image/{image_id}%cc%81",
        ):  # fmt: skip
            assert (await there.ask(f"{strange}?{query}")).status == 404, strange
        assert (await there.ask(target)).status == 200


async def test_of_64_last_characters_one_opens(tmp_path: Path) -> None:
    """Row 13: four of them decode to the same bytes; padding and the other alphabet are refused, too."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    async with house(tmp_path) as there:
        for _ in range(4):
            target = await there.sign(await there.make())
            statuses = [(await there.ask(target[:-1] + last)).status for last in alphabet]
            assert sorted(statuses) == [200, *[403] * 63]
            assert statuses[alphabet.index(target[-1])] == 200
            for tail in ("=", "==", "!!", "%3D", "\xa0"):
                assert (await there.ask(target + tail)).status in {400, 403}
            plain = target.partition("sig=")[2].replace("-", "+").replace("_", "/")
            if plain not in target:
                assert (await there.ask(f"{target.partition('sig=')[0]}sig={plain}")).status == 403


async def test_a_signature_that_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    """Rows 14 and 15: never 500, from one byte to a megabyte."""
    async with house(tmp_path) as there:
        target = await there.sign(await there.make())
        start, _, sig = target.partition("sig=")
        for wrong in (
            "",
            "\xe9",
            "é".encode().decode("latin-1"),
            "%C3%A9",
            "\xff" * 60,
            "\x00",
            "\t",
            sig + "\x7f",
        ):
            assert (await there.ask(f"{start}sig={wrong}")).status in {400, 403}, wrong
        for length in (*range(len(sig)), len(sig) + 1, 100, 1000, 4000):
            assert (await there.ask(f"{start}sig={(sig * 70)[:length]}")).status == 403
        for length in (10_000, 65_536, 1_000_000):
            await there.too_long(f"{start}sig={'A' * length}")
        assert (await there.ask(target)).status == 200


async def test_a_signature_of_another_tenant_does_not_open(tmp_path: Path) -> None:
    """Row 20: not of its own making, nor one made with the gateway's secret under the other's access key."""
    async with house(tmp_path) as there:
        mine = await there.make(require_signature=True)
        theirs = await there.make(THEIRS, require_signature=True)
        assert (await there.call(f"/v1/images/{mine}/signed-url", THEIRS)).status == 404
        target = await there.sign(theirs, THEIRS)
        assert (await there.ask(target)).status == 200
        access_id = target.partition("sig=")[2][4:16]
        crossed = Signer([SECRET]).sign(f"/image/{mine}", access_id, int(time.time()) + 60)
        answer = await there.ask(f"/image/{mine}?{crossed}")
        assert (answer.status, answer.code) == (403, "bad_signature")


async def test_a_signature_holds_under_one_path(tmp_path: Path) -> None:
    """Row 23: not at the CDN's path of the same picture, nor the other way round, nor for another picture."""
    async with house(tmp_path) as there:
        one, two = await there.make(), await there.make()
        image, generated = await there.sign(one), await there.sign(one, cdn=True)
        paths = [f"/image/{one}", f"/generated/{one}.png", f"/image/{two}", f"/generated/{two}.png"]
        for target in (image, generated):
            path, _, query = target.partition("?")
            statuses = {other: (await there.ask(f"{other}?{query}")).status for other in paths}
            assert statuses == {other: 200 if other == path else 403 for other in paths}


async def test_a_revoked_key_and_a_passed_end_refuse_every_method_and_range(tmp_path: Path) -> None:
    """Rows 24 and 31: a download cannot be begun or resumed any more."""
    async with house(tmp_path) as there:
        refused = [(target, status) for target, _, status in await there.refused() if "?exp=" in target]
        assert sorted(status for _, status in refused) == [403, 403, 410]
        for target, status in [*refused, (f"/image/{await there.expired()}", 410)]:
            for method in ("GET", "HEAD"):
                for lines in ((), ("Range: bytes=10-",)):
                    answer = await there.ask(target, *lines, method=method)
                    assert answer.status == status
                    assert "content-range" not in answer.headers


@pytest.mark.parametrize("number", thoroughly(400, FORGERIES))
async def test_of_thousands_of_forgeries_none_is_accepted_and_none_is_a_failure(
    tmp_path: Path, number: int
) -> None:
    """Mangled and forged signatures over kept connections: no 200, no 5xx, and the good URL works after.

    BLOSSOM_TEST_FUZZ is how many in the campaigns, 2,000 unless it is set.
    """
    rng = random.Random(20261122)  # noqa: S311 - reproducible, not secret
    async with house(tmp_path) as there:
        ids = [await there.make(require_signature=True) for _ in range(8)]
        good = [await there.sign(image_id) for image_id in ids]
        good += [await there.sign(image_id, cdn=True, access_key=f"reader-{image_id}") for image_id in ids]
        sent = 0
        statuses: dict[int, int] = {}
        while sent < number:
            batch: list[str] = []
            while len(batch) < min(100, number - sent):
                target = mangled(rng, good)
                if target not in good and not reordered(target, good):
                    batch.append(target)
            for status in await pipelined(there.port, batch):
                statuses[status] = statuses.get(status, 0) + 1
            sent += len(batch)
        assert sum(statuses.values()) == number
        assert set(statuses) <= {400, 403, 404, 410}, statuses
        assert statuses[403] > number / 4, statuses
        assert await pipelined(there.port, good) == [200] * len(good)


URL_BYTES = [chr(byte) for byte in range(0x21, 0x7F)]


def mangled(rng: random.Random, good: list[str]) -> str:
    """A signed URL that none of the good ones is, though it may be near."""
    target = rng.choice(good)
    path, _, query = target.partition("?")
    exp, sig = query.split("&")
    at = rng.randrange(len(query))
    kind = rng.randrange(12)
    if kind == 0:  # a bit of a character
        changed = chr(ord(query[at]) ^ (1 << rng.randrange(7)))
        return f"{path}?{query[:at]}{changed if changed in URL_BYTES else 'x'}{query[at + 1 :]}"
    if kind == 1:  # another character
        return f"{path}?{query[:at]}{rng.choice(URL_BYTES)}{query[at + 1 :]}"
    if kind == 2:
        return f"{path}?{query[:at]}{rng.choice(URL_BYTES)}{query[at:]}"
    if kind == 3:
        return f"{path}?{query[:at]}{query[at + 1 :]}"
    if kind == 4:
        return f"{path}?{query[:at]}%{ord(query[at]):02x}{query[at + 1 :]}"
    if kind == 5:
        return f"{path}?exp={rng.randrange(10**9, 10**11)}&{sig}"
    if kind == 6:  # the signature of another
        return f"{rng.choice(good).partition('?')[0]}?{rng.choice(good).partition('?')[2]}"
    if kind == 7:  # pieces of several
        other = rng.choice(good).partition("?")[2].partition("&")[2]
        cut = rng.randrange(len(sig))
        return f"{path}?{exp}&{sig[:cut]}{other[cut:]}"
    if kind == 8:
        return f"{path}?{query}&{rng.choice([exp, sig, 'a=1', 'sig=', ''])}"
    if kind == 9:  # of the right form
        mac = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", k=43))
        return f"{path}?{exp}&{sig.partition('.')[0]}.{mac}"
    if kind == 10:
        return f"{path}?{''.join(rng.choices(URL_BYTES, k=rng.randrange(200)))}"
    place = rng.randrange(7, len(path))
    return f"{path[:place]}{rng.choice(URL_BYTES)}{path[place + 1 :]}?{query}"


def reordered(target: str, good: list[str]) -> bool:
    path, _, query = target.partition("?")
    return f"{path}?{'&'.join(reversed(query.split('&')))}" in good


async def pipelined(port: int, targets: list[str]) -> list[int]:
    """The status of each, all sent before the first answer is read; another connection where one ends."""
    statuses: list[int] = []
    while len(statuses) < len(targets):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        left = targets[len(statuses) :]
        writer.write(b"".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target in left))
        async with asyncio.timeout(LIMIT_S):
            for _ in left:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                statuses.append(int(head.split()[1]))
                if b"connection: close" in head:
                    break
        writer.close()
        await writer.wait_closed()
    return statuses


# Access over HTTP


async def test_head_is_refused_as_get_is(tmp_path: Path) -> None:
    """Row 27: the same status and headers, and no body."""
    async with house(tmp_path) as there:
        for target, lines, status in await there.refused():
            got = await there.ask(target, *lines)
            head = await there.ask(target, *lines, method="HEAD")
            assert (head.status, head.body) == (status, b"")
            assert head.told[:2] == got.told[:2]


async def test_no_header_makes_a_method_another(tmp_path: Path) -> None:
    """Row 28: POST stays 405, and GET stays GET."""
    async with house(tmp_path) as there:
        target = f"/image/{await there.make()}"
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                answer = await there.ask(target, f"{name}: GET", "Content-Length: 0", method=method)
                assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD,OPTIONS")
                assert (await there.ask(target, f"{name}: {method}")).status == 200


async def test_a_thousand_ranges_are_one_picture(tmp_path: Path) -> None:
    """Row 32: the whole, once, and for as little work as without: nothing is done for each range."""
    async with house(tmp_path) as there:
        target = f"/image/{await there.make()}"
        await there.ask(target)
        with effort() as without:
            whole = await there.ask(target)
        for ranges in (
            ",".join(["0-"] * 1000),
            ",".join(f"{n}-{n + 9}" for n in range(800)),
            "0-" + ",0-" * 999,
        ):
            with effort() as spent:
                answer = await there.ask(target, f"Range: bytes={ranges}")
            assert (answer.status, answer.body) == (200, whole.body)
            assert spent.calls < 2 * without.calls


async def test_the_request_line_decides_only_by_its_path(tmp_path: Path) -> None:
    """Row 33: TRACE and CONNECT are refused, and host and scheme of an absolute form mean nothing."""
    async with house(tmp_path) as there:
        public, private = await there.make(), await there.make(require_auth=True)
        assert (await there.ask(f"/image/{public}", method="TRACE")).status == 405
        assert (await there.ask("evil.com:443", method="CONNECT")).status in {400, 404, 405}
        for scheme in ("http://evil.com", "https://evil.com", "http://127.0.0.1:1"):
            answer = await there.ask(f"{scheme}/image/{public}")
            assert answer.status == 200
            assert "evil" not in str(answer.headers)
            assert (await there.ask(f"{scheme}/image/{private}")).status == 401


async def test_no_header_of_proxies_changes_a_picture(tmp_path: Path) -> None:
    """Row 38: what a cache does not know to be part of the answer is no part of it."""
    async with house(tmp_path) as there:
        image_id = await there.make()
        for target in (f"/image/{image_id}", f"/image/{UNKNOWN}"):
            plain = await there.ask(target)
            for name in PROXY_HEADERS.split():
                assert (await there.ask(target, f"{name}: evil.example")).told == plain.told, name


async def test_a_file_name_behind_a_picture_is_no_picture(tmp_path: Path) -> None:
    """Row 40: a cache that goes by the ending has nothing to keep."""
    async with house(tmp_path) as there:
        image_id = await there.make(require_auth=True)
        for tail in (
            ";x.css",
            "/x.png",
            "/%2e%2e/x.js",
            "%2fx.css",
            ".css",
            "%0ax.css",
            "%3Fx.css",
            "%23x.css",
        ):
            answer = await there.ask(f"/image/{image_id}{tail}", MINE)
            assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")


async def test_a_request_has_one_host_which_decides_nothing(tmp_path: Path) -> None:
    """Row 41: two are 400; an unknown one is served the same and said back nowhere."""
    async with house(tmp_path) as there:
        image_id = await there.make()
        for hosts in ("Host: a\r\nHost: b\r\n", "Host: a\r\nhost: a\r\n", ""):
            answer = parsed(await there.send(f"GET /image/{image_id} HTTP/1.1\r\n{hosts}\r\n".encode()))
            assert answer.status == 400, hosts
        sent = f"GET /image/{image_id} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        evil = parsed(await there.send(sent.encode()))
        assert evil.told == (await there.ask(f"/image/{image_id}")).told
        data = b'{"prompt": "a lake", "width": 32, "height": 32}'
        head = f"POST /v1/images HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n{MINE}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        made = parsed(await there.send(head.encode() + data))
        assert made.status == 201
        assert b"evil" not in made.body


async def test_the_page_must_be_on_an_allowed_host(tmp_path: Path) -> None:
    """Rows 42 to 47: every value of Referer and Origin must name the very host, and one must be there."""
    async with house(tmp_path) as there:
        target = f"/image/{await there.make(allowed_domains=['myapp.com', '*.shop.example'])}"
        good = [
            ("Referer: https://myapp.com/",),
            ("Referer: HTTPS://MYAPP.COM.:443/a?b=c",),
            ("Origin: https://myapp.com",),
            ("Origin: http://myapp.com:8080", "Referer: https://myapp.com/x"),
            ("Referer: https://a.shop.example/",),
        ]
        bad = [
            (),
            ("Sec-Fetch-Site: same-origin",),
            *((f"Referer: {text}",) for text in (
                "https://evil-myapp.com/", "https://myapp.com.evil.com/", "https://myapp.com@evil.com/",
                "https://evil.com/?myapp.com", "https://evil.com#myapp.com", "https://evil.com/myapp.com",
                "https://myapp.com:443@evil.com/", "https://evil.com\\@myapp.com/", "//myapp.com/",
                "myapp.com",
                "javascript://myapp.com/", "https://a.myapp.com/", "https://shop.example/", "https://myapp.co/",
                "https://myapp.com%2eevil.com/", "https://myapp.com\xb7evil.com/", "", " ", "null",
            )),
            ("Origin: null",),
            ("Origin: https://myapp.com https://evil.com",),
            ("Origin: https://myapp.com, https://evil.com",),
            ("Origin: https://myapp.com/path",),
            ("Origin: https://myapp.com", "Origin: https://myapp.com"),
            ("Referer: https://myapp.com/", "Referer: https://evil.com/"),
            ("Referer: https://myapp.com/", "Origin: https://evil.com"),
            ("Origin: https://myapp.com", "Referer: https://evil.com/"),
            ("Origin: null", "Referer: https://myapp.com/"),
        ]  # fmt: skip
        for lines in good:
            assert (await there.ask(target, *lines)).status == 200, lines
        for lines in bad:
            for method in ("GET", "HEAD"):
                assert (await there.ask(target, *lines, method=method)).status == 403, lines
        assert (await there.ask(target, f"Referer: https://evil.com/{'a' * 7000}")).status == 403
        await there.too_long(target, f"Referer: https://myapp.com/{'a' * 1_000_000}")


async def test_an_address_is_believed_of_trusted_proxies_only(tmp_path: Path) -> None:
    """Rows 48 to 50: with none, one and two of them; lines are joined in order; no other header counts."""
    inside, outside, proxy = "192.168.1.5", "203.0.113.9", "10.0.0.1"
    cases: list[tuple[tuple[str, ...], list[tuple[tuple[str, ...], int]]]] = [
        ((), [((f"X-Forwarded-For: {inside}",), 403), ((), 403)]),
        (
            ("127.0.0.1",),
            [
                ((f"X-Forwarded-For: {inside}",), 200),
                ((f"X-Forwarded-For: {inside}, {outside}",), 403),
                ((f"X-Forwarded-For: {outside}, {inside}",), 200),
                ((f"X-Forwarded-For: {inside}", f"X-Forwarded-For: {outside}"), 403),
                ((f"X-Forwarded-For: {outside}", f"X-Forwarded-For: {inside}"), 200),
                ((f"X-Forwarded-For: {inside}, {proxy}",), 403),
                ((f"X-Forwarded-For: ::ffff:{inside}",), 200),
                (("X-Forwarded-For: 127.0.0.1",), 403),
                ((), 403),
            ],
        ),
        (
            ("127.0.0.1", "10.0.0.0/8"),
            [
                ((f"X-Forwarded-For: {inside}, {proxy}",), 200),
                ((f"X-Forwarded-For: {inside}, {outside}, {proxy}",), 403),
                ((f"X-Forwarded-For: {inside}", f"X-Forwarded-For: {outside}, {proxy}"), 403),
            ],
        ),
    ]
    for number, (trusted, requests) in enumerate(cases):
        async with house(tmp_path / str(number), trusted_proxies=trusted) as there:
            target = f"/image/{await there.make(ip_whitelist=['192.168.1.0/24'])}"
            for lines, status in requests:
                assert (await there.ask(target, *lines)).status == status, (trusted, lines)
            for name in ("Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP"):
                for value in (inside, f"for={inside}"):
                    assert (await there.ask(target, f"{name}: {value}")).status == 403, name


async def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    """Row 51: garbage where the viewer's address should be is 403, never 500 and never somebody else's."""
    async with house(tmp_path, trusted_proxies=("127.0.0.1",)) as there:
        target = f"/image/{await there.make(ip_whitelist=['0.0.0.0/1', '128.0.0.0/1'])}"
        assert (await there.ask(target, "X-Forwarded-For: 1.2.3.4")).status == 200
        for garbage in (
            "unknown", "1.2.3.4:x", "[::1]:80", "1.2.3", "01.2.3.4", "1.2.3.4/32", "0x7f.1", "1.2.3.4,", ",",
            "", "\xff", "fe80::1%eth0", "1.2.3.4 ; x", "a" * 7000, "1.2.3.4, " * 40 + "x",
            "\uff11".encode().decode("latin-1"),
        ):  # fmt: skip
            answer = await there.ask(target, f"X-Forwarded-For: {garbage}")
            assert answer.status == 403, garbage
        await there.too_long(target, f"X-Forwarded-For: {'1.2.3.4, ' * 10_000}")
