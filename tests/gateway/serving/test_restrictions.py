"""Who may open a URL: every rule of the guide through a real gateway, as its callers and viewers meet it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from blossom_async import BlossomClient, Conflict, InvalidRequest, NotFound, Rejected
from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.storage.records import ApiKey, Records
from blossom_async.gateway.storage.records import keys as key_records
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.waiting import until

SMALL: dict[str, Any] = {"width": 32, "height": 32}
OTHER_KEY = "a-key-of-another-tenant-0123456789"

Gateway = AbstractAsyncContextManager[RunningGateway]


async def answer(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body. The URL goes out as it is."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(url, encoded=True), headers=sent) as response,
    ):
        return (
            response.status,
            {name.lower(): value for name, value in response.headers.items()},
            await response.read(),
        )


async def status(url: str, method: str = "GET", **headers: str) -> int:
    return (await answer(url, method, **headers))[0]


class TestSignedUrls:
    async def test_a_signed_url_opens_and_the_same_without_signature_does_not(self, gateway: Gateway) -> None:
        """`generate_signed_url()` gives exactly `?exp=&sig=`; without, and with another, it is 403 alike."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_signed_url("private content", access_key="user-7", **SMALL)
            bare, _, query = url.partition("?")
            names = [part.partition("=")[0] for part in query.split("&")]
            assert names == ["exp", "sig"]
            assert "user-7" not in url
            assert await status(url) == 200
            assert await status(url, "HEAD") == 200
            _, _, without = await answer(bare)
            refused, headers, forged = await answer(f"{url[:-1]}{'A' if url[-1] != 'A' else 'B'}")
            assert refused == 403
            assert headers["cache-control"] == "no-store"
            assert await status(bare) == 403
            told = [body.partition(b'"request_id"')[0] for body in (without, forged)]
            assert told[0] == told[1]

    async def test_signed_pictures_are_private(self, gateway: Gateway) -> None:
        """No shared cache may keep what only a signature opens."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_signed_url("private content", signature_ttl=60, **SMALL)
            _, headers, _ = await answer(url)
            assert headers["cache-control"].startswith("private, max-age=")
            assert int(headers["cache-control"].split("max-age=")[1].partition(",")[0]) <= 60
            assert headers["x-robots-tag"] == "noindex"

    async def test_a_signature_opens_one_picture_under_one_path(self, gateway: Gateway) -> None:
        """Moved to another picture, or to the CDN's path of the same, it is refused."""
        async with gateway as running, running.client() as client:
            first, second = [
                await client.image.generate_signed_url(prompt, **SMALL) for prompt in ("one", "two")
            ]
            query = first.partition("?")[2]
            image_id = first.partition("?")[0].rpartition("/")[2]
            assert await status(f"{second.partition('?')[0]}?{query}") == 403
            assert await status(f"{running.base_url}/generated/{image_id}.png?{query}") == 403

    async def test_an_existing_public_picture_can_be_signed(self, gateway: Gateway) -> None:
        """`sign_url()` takes any URL form; a bad signature is refused though the bare URL is public."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_url("a lake", **SMALL)
            signed = await client.image.sign_url(url)
            assert signed.startswith(f"{url}?exp=")
            assert await status(signed) == 200
            assert await status(url) == 200
            assert await status(f"{signed[:-2]}__") == 403
            assert await client.image.sign_url(signed) is not None

    async def test_a_cdn_url_is_signed_for_the_cdns_path(self, gateway: Gateway) -> None:
        """Under a CDN the signature is of `/generated/{id}.{ext}`, which the gateway then checks."""
        async with gateway as running, running.client(cdn_prefix="https://cdn.myapp.com") as client:
            for url in (
                await client.image.generate_signed_url("private", use_custom_cdn=True, **SMALL),
                await client.image.sign_url(
                    await client.image.generate_url("public", use_custom_cdn=True, **SMALL)
                ),
            ):
                assert url.startswith("https://cdn.myapp.com/generated/")
                assert await status(url.replace("https://cdn.myapp.com", running.base_url)) == 200

    @pytest.mark.parametrize(
        "name", ["a/b", "/a", "a/", "../x", "...", "%2e%2e", "a%2Fb", "?", "#", ";x", "a+b", "ü"]
    )
    async def test_whatever_is_signed_under_can_be_revoked(self, name: str, gateway: Gateway) -> None:
        """Users' names are access keys, and hold what paths and queries are made of."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_signed_url("one", access_key=name, **SMALL)
            assert await client.image.validate_url(url)
            await client.image.revoke_access_key(name)
            assert not await client.image.validate_url(url)

    @pytest.mark.parametrize("name", [".", ".."])
    async def test_a_name_that_could_not_be_revoked_signs_nothing(self, name: str, gateway: Gateway) -> None:
        """It is refused before a picture is made."""
        async with gateway as running, running.client() as client:
            with pytest.raises(InvalidRequest, match="access_key"):
                await client.image.generate_signed_url("one", access_key=name, **SMALL)

    async def test_revoking_an_access_key_ends_its_urls_and_no_others(self, gateway: Gateway) -> None:
        """At once in this process, for good, and before money is spent on a new picture."""
        async with gateway as running, running.client() as client:
            mine = await client.image.generate_signed_url("one", access_key="me", **SMALL)
            other = await client.image.generate_signed_url("two", access_key="someone else/ö", **SMALL)
            await client.image.revoke_access_key("me")
            refused, _, body = await answer(mine)
            assert (refused, b'"key_revoked"' in body) == (403, True)
            assert await status(other) == 200
            with pytest.raises(Conflict, match="was revoked; sign under another name"):
                await client.image.sign_url(mine, access_key="me")
            made = len(list((running.data_dir / "images").rglob("*.png")))
            with pytest.raises(Conflict):
                await client.image.generate_signed_url("three", access_key="me", **SMALL)
            assert len(list((running.data_dir / "images").rglob("*.png"))) == made
            await client.image.revoke_access_key("someone else/ö")
            assert await status(other) == 403

    async def test_a_revocation_reaches_another_process(self, tmp_path: Path) -> None:
        """Two gateways on one data folder: the one that did not hear of it refuses, too.

        Within a second, by its clock: see tests/gateway/storage/test_lookups.py.
        """
        async with running_gateway(tmp_path) as first, running_gateway(tmp_path) as second:
            async with first.client() as client:
                url = await client.image.generate_signed_url("one", access_key="me", **SMALL)
                there = url.replace(first.base_url, second.base_url)
                assert await status(there) == 200
                await client.image.revoke_access_key("me")

                async def refused() -> bool:
                    return await status(there) != 200

                await until(refused)
                assert await status(there) == 403

    async def test_secrets_rotate_without_an_end_to_what_is_out(self, tmp_path: Path) -> None:
        """Old and new are both valid while both stand; once the old is gone, so are its URLs."""
        old, new = "old-secret-0123456789-abcdefghijkl", "new-secret-0123456789-mnopqrstuvw"
        async with running_gateway(tmp_path, signing_secrets=(old,)) as running, running.client() as client:
            before = await client.image.generate_signed_url("one", **SMALL)
        path = before.removeprefix(running.base_url)
        async with running_gateway(tmp_path, signing_secrets=(new, old)) as running:
            assert await status(running.base_url + path) == 200
            async with running.client() as client:
                after = (await client.image.sign_url(before)).removeprefix(running.base_url)
        async with running_gateway(tmp_path, signing_secrets=(new,)) as running:
            assert await status(running.base_url + path) == 403
            assert await status(running.base_url + after) == 200

    async def test_own_secrets_outlive_the_process(self, tmp_path: Path) -> None:
        """Without settings the gateway keeps a secret in its data folder, for its owner's eyes only."""
        async with running_gateway(tmp_path) as running, running.client() as client:
            url = await client.image.generate_signed_url("one", **SMALL)
        secret = tmp_path / "signing_secrets"
        assert secret.stat().st_mode & 0o777 == 0o600
        async with running_gateway(tmp_path) as again:
            assert await status(url.replace(running.base_url, again.base_url)) == 200

    async def test_stable_urls_are_the_same_for_a_while(self, gateway: Gateway) -> None:
        """Two pages made in one window show the same bytes, so that a browser fetches the picture once."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_url("a lake", **SMALL)
            signed = {await client.image.sign_url(url, signature_ttl=86_400, stable=True) for _ in range(20)}
            assert len(signed) <= 2  # the window may end in between
            assert await status(signed.pop()) == 200

    @pytest.mark.parametrize("ttl", [0, -1, 604_801, 1.5, True, "3600"])
    async def test_signature_ttl_is_bounded(self, ttl: Any, gateway: Gateway) -> None:
        """1 second to a week, said before anything is sent."""
        async with gateway as running, running.client() as client:
            with pytest.raises(InvalidRequest, match="signature_ttl"):
                await client.image.generate_signed_url("one", signature_ttl=ttl, **SMALL)
            assert not (running.data_dir / "images").exists() or not list(
                (running.data_dir / "images").rglob("*.png")
            )

    async def test_a_replayed_request_is_signed_anew(self, gateway: Gateway) -> None:
        """The same Idempotency-Key gives the same picture; each answer has a URL that is valid from then."""
        async with gateway as running, aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "one"}
            body = {"prompt": "x", "require_signature": True, "sign": {"signature_ttl": 60}, **SMALL}
            urls = []
            for _ in range(2):
                async with session.post(
                    f"{running.base_url}/v1/images", json=body, headers=headers
                ) as response:
                    assert response.status == 201
                    urls.append((await response.json())["url"])
            assert urls[0].partition("?")[0] == urls[1].partition("?")[0]
            assert [await status(url) for url in urls] == [200, 200]


class TestRequireAuth:
    async def test_only_with_a_key_of_the_owner(self, gateway: Gateway) -> None:
        """401 with a challenge without one, 404 with another tenant's, as if there were no picture."""
        async with gateway as running, running.client() as client:
            records = Records(running.data_dir / "records.sqlite")
            await records.open()
            other = ApiKey(
                name="other", tenant="other", digest=digest(OTHER_KEY), created_at=datetime.now(UTC)
            )
            await records.write(partial(key_records.add_api_key, other))
            await records.close()
            url = await client.image.generate_url("private", require_auth=True, **SMALL)
            code, headers, _ = await answer(url)
            assert (code, headers["www-authenticate"]) == (401, "Bearer")
            assert await status(url, Authorization="Bearer wrong") == 401
            assert await status(url, Authorization=f"Basic {KEY}") == 401
            assert await status(url, Authorization=f"Bearer {OTHER_KEY}") == 404
            code, headers, _ = await answer(url, Authorization=f"Bearer {KEY}")
            assert code == 200
            assert headers["cache-control"] == "private, no-cache"
            assert headers["vary"] == "Authorization"
            assert headers["cross-origin-resource-policy"] == "same-site"

    async def test_a_tenant_sees_nothing_of_another(self, gateway: Gateway) -> None:
        """Look-up, signing, regenerating, deleting and explaining say 404, whatever the picture."""
        async with gateway as running, running.client() as client:
            records = Records(running.data_dir / "records.sqlite")
            await records.open()
            other = ApiKey(
                name="other", tenant="other", digest=digest(OTHER_KEY), created_at=datetime.now(UTC)
            )
            await records.write(partial(key_records.add_api_key, other))
            await records.close()
            url = await client.image.generate_url("mine", **SMALL)
            async with BlossomClient(running.base_url, api_key=OTHER_KEY) as stranger:
                with pytest.raises(NotFound):
                    await stranger.image.sign_url(url)
                with pytest.raises(NotFound):
                    await stranger.image.regenerate_from_url(url)
                with pytest.raises(NotFound):
                    await stranger.image.explain_url(url)
            path = url.replace("/image/", "/v1/images/")
            assert await status(path, Authorization=f"Bearer {OTHER_KEY}") == 404
            assert await status(path, "DELETE", Authorization=f"Bearer {OTHER_KEY}") == 404
            assert await status(path, Authorization=f"Bearer {KEY}") == 200


class TestAddressesAndSites:
    async def test_ip_whitelist(self, tmp_path: Path) -> None:
        """The address is that of the connection, or what a trusted proxy says of it; nobody else's word."""
        async with running_gateway(tmp_path / "a") as running, running.client() as client:
            mine = await client.image.generate_url("x", ip_whitelist=["127.0.0.0/8"], **SMALL)
            theirs = await client.image.generate_url("x", ip_whitelist=["192.168.1.0/24"], **SMALL)
            assert await status(mine) == 200
            assert await status(theirs) == 403
            assert await status(theirs, X_Forwarded_For="192.168.1.5") == 403
        async with running_gateway(tmp_path / "b", trusted_proxies=("127.0.0.1",)) as running:
            async with running.client() as client:
                theirs = await client.image.generate_url("x", ip_whitelist=["192.168.1.0/24"], **SMALL)
            assert await status(theirs, X_Forwarded_For="192.168.1.5") == 200
            assert await status(theirs, X_Forwarded_For="192.168.1.5, 10.0.0.1") == 403
            assert await status(theirs) == 403

    async def test_allowed_domains(self, gateway: Gateway) -> None:
        """The page's host must match exactly; no Referer and no Origin is no page at all."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_url("x", allowed_domains=["myapp.com", "*.myapp.com"], **SMALL)
            assert await status(url) == 403
            assert await status(url, Referer="https://myapp.com/page") == 200
            assert await status(url, Referer="https://cdn.myapp.com/") == 200
            assert await status(url, Referer="https://myapp.com.evil.com/") == 403
            assert await status(url, Referer="https://myapp.com/", Origin="https://evil.com") == 403
            _, headers, _ = await answer(url, Origin="https://myapp.com")
            assert headers["access-control-allow-origin"] == "https://myapp.com"
            assert "Origin" in headers["vary"]

    async def test_all_rules_that_are_set_must_hold(self, gateway: Gateway) -> None:
        """The guide's own example: each rule alone is not enough."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_url(
                "sensitive content",
                allowed_domains=["myapp.com"],
                ip_whitelist=["127.0.0.1"],
                require_auth=True,
                **SMALL,
            )
            key, page = f"Bearer {KEY}", "https://myapp.com/"
            assert await status(url) == 401
            assert await status(url, Referer=page) == 401
            assert await status(url, Authorization=key) == 403
            assert await status(url, Authorization=key, Referer=page) == 200

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"allowed_domains": []}, "omit it for no restriction"),
            ({"ip_whitelist": ()}, "omit it for no restriction"),
            ({"allowed_domains": "myapp.com"}, "a list of 1 to 100"),
            ({"allowed_domains": ["https://myapp.com/"]}, "myapp.com"),
            ({"ip_whitelist": ["192.168.1.5/24"]}, "192.168.1.0/24"),
            ({"ip_whitelist": ["0.0.0.0/0"]}, "ip_whitelist"),
            ({"ip_whitelist": [7]}, "a list of 1 to 100"),
            ({"require_auth": "yes"}, "True or False"),
            ({"require_auth": True, "cache_control": "public, max-age=60"}, "cache_control"),
            ({"require_signature": True, "cache_control": "s-maxage=60"}, "cache_control"),
        ],
    )
    async def test_a_rule_that_cannot_be_honoured_is_refused(
        self, options: dict[str, Any], says: str, gateway: Gateway
    ) -> None:
        """Before anything is sent, and by the gateway too: 422 names the field."""
        async with gateway as running, running.client() as client, aiohttp.ClientSession() as session:
            with pytest.raises(InvalidRequest, match=says):
                await client.image.generate_url("x", **options, **SMALL)
            body = {"prompt": "x", **options}
            headers = {"Authorization": f"Bearer {KEY}"}
            async with session.post(f"{running.base_url}/v1/images", json=body, headers=headers) as response:
                assert response.status == 422
                assert (await response.json())["field"] in options


class TestExplain:
    async def test_it_says_what_a_viewer_would_be_told_and_why(self, gateway: Gateway) -> None:
        """The owner sees the rule; nothing of it is in what the viewer gets."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_url(
                "x", ip_whitelist=["10.0.0.0/8"], allowed_domains=["myapp.com"], **SMALL
            )
            told = await client.image.explain_url(url, address="192.168.1.5")
            assert (told.status, told.code) == (403, "address_not_allowed")
            assert "10.0.0.0/8" in told.detail
            assert "192.168.1.5" in told.detail
            told = await client.image.explain_url(url, address="10.1.2.3", referer="https://evil.com/")
            assert (told.status, told.code) == (403, "site_not_allowed")
            assert "myapp.com" in told.detail
            told = await client.image.explain_url(url, address="10.1.2.3", referer="https://myapp.com/")
            assert (told.status, told.code) == (200, "ok")
            _, _, body = await answer(url)
            assert b"10.0.0.0" not in body
            assert b"myapp" not in body

    async def test_signatures_and_expiry_are_judged_at_the_time_asked_for(self, gateway: Gateway) -> None:
        """`at` tells today what will be refused tomorrow."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_signed_url("x", signature_ttl=60, **SMALL)
            assert (await client.image.explain_url(url)).status == 200
            assert (await client.image.explain_url(url.partition("?")[0])).status == 403
            later = datetime.now(UTC) + timedelta(minutes=5)
            told = await client.image.explain_url(url, at=later)
            assert (told.status, told.code) == (410, "signature_expired")
            with pytest.raises(Rejected, match="an IPv4 or IPv6 address"):
                await client.image.explain_url(url, address="not an address")


class TestFormats:
    async def test_auto_gives_each_viewer_the_lightest_it_takes(self, gateway: Gateway) -> None:
        """webp where the viewer names it, else jpg; a tag for each, and `Vary` says what decides."""
        async with gateway as running, running.client() as client:
            info = await client.image.generate_url_with_info("a lake", format="auto", width=256, height=256)
            assert info.format == "auto"
            _, webp, small = await answer(info.url, Accept="image/avif,image/webp,*/*;q=0.8")
            _, jpg, other = await answer(info.url, Accept="*/*")
            assert (webp["content-type"], jpg["content-type"]) == ("image/webp", "image/jpeg")
            assert webp["etag"] != jpg["etag"]
            assert webp["vary"] == jpg["vary"] == "Accept"
            assert len(small) < len(other)
            assert info.file_size == len(other)
            kept, headers, _ = await answer(info.url, Accept="image/webp", If_None_Match=webp["etag"])
            assert (kept, headers["vary"]) == (304, "Accept")

    async def test_auto_without_loss(self, gateway: Gateway) -> None:
        """With `compression="lossless"` both files are: webp, and png for the others."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_url("x", format="auto", compression="lossless", **SMALL)
            _, png, _ = await answer(url)
            _, webp, _ = await answer(url, Accept="image/webp")
            assert (png["content-type"], webp["content-type"]) == ("image/png", "image/webp")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"compression": "lossless", "format": "jpg"}, "or format png or webp"),
            ({"compression": "none", "quality_preset": "web_optimized"}, "with quality_preset web_optimized"),
            ({"compression": "lossy", "quality_preset": "print"}, "with quality_preset print"),
        ],
    )
    async def test_weights_that_contradict_each_other_are_refused(
        self, options: dict[str, Any], says: str, gateway: Gateway
    ) -> None:
        """Before a picture is drawn for them."""
        async with gateway as running, running.client() as client:
            with pytest.raises(InvalidRequest, match=says):
                await client.image.generate_url("x", **options, **SMALL)

    async def test_presets_change_the_file(self, gateway: Gateway) -> None:
        """`thumbnail` fits 256x256, `web_optimized` is lighter, `print` notes 300 dpi."""
        async with gateway as running, running.client() as client:
            plain, light, small, printed = [
                await client.image.generate_url_with_info(
                    "a lake", seed=1, format="jpg", width=512, height=384, quality_preset=preset
                )
                for preset in (None, "web_optimized", "thumbnail", "print")
            ]
            assert light.file_size < plain.file_size < printed.file_size
            assert (small.width, small.height) == (256, 192)
            assert b"\x01\x01\x2c\x01\x2c" in (await answer(printed.url))[2][:64]  # JFIF: dots per inch, 300

    async def test_auto_keeps_transparency(self, gateway: Gateway) -> None:
        """Without webp a transparent picture is a png."""
        async with gateway as running, running.client() as client:
            url = await client.image.generate_url("a lake", format="auto", transparency=True, **SMALL)
            _, headers, _ = await answer(url)
            assert headers["content-type"] == "image/png"
