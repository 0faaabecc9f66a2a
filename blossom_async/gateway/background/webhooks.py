"""Tells the operator's URL when a deferred picture is made or has failed.

Follows Standard Webhooks (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md): signed,
delivered at least once, under the same id each time. Only the operator sets the URL, so it may be in a
private network. Redirects are not followed, so that it leads nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import aiohttp
import attrs
from yarl import URL

from blossom_async.batch import retry_after_s
from blossom_async.errors import ConfigurationError, Overloaded
from blossom_async.gateway.storage.records import Claim, ClaimState, ImageRecord, Records, Webhook
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.gateway.storage.records import webhooks as statements
from blossom_async.guard import is_this_machine
from blossom_async.headers import HEADER_LIMITS
from blossom_async.models import ImageInfo, to_json

__all__ = ["DELAYS_S", "Receiver", "Webhooks", "next_delay_s", "receiver", "webhook_session"]

DELAYS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds from each failed attempt to the next, as Standard Webhooks recommends: 76 hours in all."""

_LONGEST_WISH_S = 86_400.0  # the most that a receiver's Retry-After is honoured
_TIMEOUT_S = 15.0
_LEASE = timedelta(seconds=60)  # longer than any attempt
_AT_ONCE = 32
_LOOK_S = 1.0
_SET_BACK = timedelta(seconds=30)  # by more than this: less is how clocks are kept right
_LOOKS_AN_HOUR = 3600
_KEPT = timedelta(days=14)  # longer than all attempts take, even if each is put off for a day
_KEPT_UNTOLD = timedelta(days=1)
_KEY_BYTES = range(24, 65)
_MIN_DISTINCT = 10  # bytes

_log = logging.getLogger("blossom_async.gateway")


@attrs.frozen
class Receiver:
    """Where webhooks are sent, and the key that signs them. Made by ``receiver``."""

    url: URL = attrs.field(repr=False)  # its path may contain a secret
    key: bytes = attrs.field(repr=False)

    def sign(self, webhook_id: str, timestamp: int, body: bytes) -> str:
        """The value of ``webhook-signature``."""
        mac = hmac.digest(self.key, f"{webhook_id}.{timestamp}.".encode() + body, "sha256")
        return f"v1,{base64.b64encode(mac).decode()}"


def receiver(url: str | None, secret: str | None) -> Receiver | None:
    """The receiver in the two settings, None if neither is set.

    Raises ``ConfigurationError`` for one without the other, for a URL that is neither https nor on this
    machine, and for a secret that is weak or not in the format of Standard Webhooks.
    """
    if url is None and secret is None:
        return None
    if url is None or secret is None:
        there, missing = (
            ("webhook_url", "webhook_secret") if secret is None else ("webhook_secret", "webhook_url")
        )
        raise ConfigurationError(
            f"{there} is set and {missing} is not; allowed: both or neither; "
            f"set BLOSSOM_{missing.upper()}, or remove BLOSSOM_{there.upper()}"
        )
    return Receiver(_checked_url(url), _key(secret))


def next_delay_s(attempts: int, asked_s: float | None) -> float | None:
    """Seconds until the next attempt after so many have failed; None if there is no further one.

    ``asked_s`` is the receiver's Retry-After: it makes the wait longer, up to a day, and never shorter.
    """
    if attempts > len(DELAYS_S):
        return None
    return max(float(DELAYS_S[attempts - 1]), min(asked_s or 0.0, _LONGEST_WISH_S))


def webhook_session() -> aiohttp.ClientSession:
    """A session without cookies, proxies and ``.netrc``."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_AT_ONCE),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "blossom", "Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        trust_env=False,
        **HEADER_LIMITS,
    )


class Webhooks:
    """Delivers the webhooks in the outbox. Several processes may share one data folder.

    ``info`` describes a picture as its owner sees it. Without a ``receiver`` nothing is sent, and webhooks
    are deleted after a day.
    """

    def __init__(
        self,
        records: Records,
        receiver: Receiver | None,
        *,
        info: Callable[[ImageRecord | Claim], ImageInfo],
        now: Callable[[], datetime],
    ) -> None:
        self._records = records
        self._receiver = receiver
        self._info = info
        self._now = now
        self._last_look: datetime | None = None
        self.attempts: Counter[tuple[str, ...]] = Counter()
        """Attempts by result: ``delivered``, ``put_off`` or ``given_up``."""

    async def run(self) -> None:
        """Delivers until it is cancelled. A webhook that is cancelled midway is sent again later."""
        async with webhook_session() as session:
            for look in itertools.count():
                try:
                    if look % _LOOKS_AN_HOUR == 0:
                        await self.forget()
                    await self.deliver_due(session)
                except Overloaded as exc:
                    _log.warning("webhooks wait: %s", exc.detail)
                await asyncio.sleep(_LOOK_S)

    async def deliver_due(self, session: aiohttp.ClientSession) -> None:
        """Makes one attempt for each webhook that is due."""
        if self._receiver is None:
            return
        last, self._last_look = self._last_look, self._now()
        if last is not None and last - self._last_look > _SET_BACK:
            by, now = last - self._last_look, self._last_look
            await self._records.write(partial(statements.bring_forward, by, now))
        while await self._records.read(partial(statements.any_due, self._now())):
            now = self._now()
            claimed = await self._records.write(partial(statements.claim, now, now + _LEASE, _AT_ONCE))
            if not claimed:  # another process is claiming them, or has stopped in the middle of that
                return
            async with asyncio.TaskGroup() as attempts:
                for webhook in claimed:
                    attempts.create_task(self._deliver(webhook, self._receiver, session))

    async def forget(self) -> None:
        """Deletes old webhooks from the outbox."""
        kept = _KEPT_UNTOLD if self._receiver is None else _KEPT
        await self._records.write(partial(statements.forget, self._now() - kept))

    async def _deliver(self, webhook: Webhook, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        try:
            body = await self._body(webhook)
            if body is None:
                await self._records.write(partial(statements.put_off, webhook, None, None))
                return
            status, asked_s = await self._send(webhook, body, receiver, session)
            await self._note(webhook, status, asked_s)
        except Overloaded as exc:  # of the database; the webhook is sent again when its lease ends
            _log.warning("the result of webhook %s could not be stored: %s", webhook.id, exc.detail)
        except Exception:  # noqa: BLE001 - the task's border: the others are sent all the same
            _log.exception("webhook %s could not be sent; it is tried again", webhook.id)

    async def _body(self, webhook: Webhook) -> bytes | None:
        """The body, None if it is outdated: the picture was deleted, or is being made again."""
        made: ImageRecord | Claim | None
        made = await self._records.read(partial(call_records.claim_by_id, webhook.image_id))
        if made is None:
            made = await self._records.get(webhook.image_id)
        if made is None or _kind(made) != webhook.kind:
            return None
        told = {"type": webhook.kind, "timestamp": webhook.created_at, "data": self._info(made)}
        return to_json(told)

    async def _send(
        self, webhook: Webhook, body: bytes, receiver: Receiver, session: aiohttp.ClientSession
    ) -> tuple[int | None, float | None]:
        """The status of the answer, None without one, and its Retry-After in seconds."""
        now = self._now()
        timestamp = int(now.timestamp())
        headers = {
            "webhook-id": webhook.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": receiver.sign(webhook.id, timestamp, body),
        }
        try:
            async with session.post(
                receiver.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return answer.status, retry_after_s(answer.headers, now_s=now.timestamp())
        except (aiohttp.ClientError, OSError, UnicodeError):
            return None, None

    async def _note(self, webhook: Webhook, status: int | None, asked_s: float | None) -> None:
        if status is not None and 200 <= status < 300:
            self.attempts["delivered",] += 1
            await self._records.write(partial(statements.delivered, webhook, status, self._now()))
            return
        wait_s = None if status == 410 else next_delay_s(webhook.attempts, asked_s)
        next_at = None if wait_s is None else self._now() + timedelta(seconds=wait_s)
        self.attempts["given_up" if next_at is None else "put_off",] += 1
        if next_at is None:
            answer = "got no answer" if status is None else f"was answered {status}"
            _log.warning(
                "webhook %s was given up after %d attempts; the last %s", webhook.id, webhook.attempts, answer
            )
        await self._records.write(partial(statements.put_off, webhook, status, next_at))


def _kind(made: ImageRecord | Claim) -> str | None:
    if isinstance(made, Claim):
        return None if made.state is ClaimState.RUNNING else "image.failed"
    return "image.completed" if made.deleted_at is None else None


def _checked_url(text: str) -> URL:
    seen = "what is set"
    try:
        url = URL(text)
        seen = f"{url.scheme}://{url.host}"  # without the path, which may contain a secret
        sound = url.scheme == "https" or (url.scheme == "http" and is_this_machine(url.host))
        if sound and url.host and url.user is None and url.password is None:
            return url
    except ValueError:  # its message would show the URL
        pass
    raise ConfigurationError(
        f"webhook_url: {seen} cannot be used; allowed: an https URL without user and password, or http on "
        "this machine; set BLOSSOM_WEBHOOK_URL again, such as https://app.example.com/webhooks"
    )


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:  # includes UnicodeEncodeError, which would show the secret
        key = b""
    if not secret.startswith("whsec_") or len(key) not in _KEY_BYTES or len(set(key)) < _MIN_DISTINCT:
        raise ConfigurationError(
            f"webhook_secret: a text of {len(secret)} characters cannot be used; allowed: whsec_ and 24 to "
            "64 random bytes in base64; make one with: python3 -c 'import base64, secrets; "
            'print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())\''
        )
    return key
