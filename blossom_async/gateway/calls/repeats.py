"""Recognises retries of OpenAI's clients, so that no picture is paid for twice."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from cachetools import LRUCache

from blossom_async.gateway.storage.records import Caller, Records
from blossom_async.gateway.storage.records import calls as call_records

__all__ = ["Repeats", "retry_count"]

_WINDOW = timedelta(hours=1)  # two retries of OpenAI's clients, which wait up to ten minutes for each answer
_REMEMBERED = 10_000
_EQUAL = 100


class Repeats:
    """Gives calls without an ``Idempotency-Key`` one of their own, and their repetitions the same.

    The clients send the number of the retry in ``x-stainless-retry-count``, 0 for a first try. A retry takes
    the key of an equal call of the same API key within the last hour, of several the oldest that was tried
    less often. The keys are on the disk with the calls, so that a retry finds them after a restart and from
    any process. First tries with equal bodies stay apart. ``clock`` counts seconds and never jumps: a retry
    at the process of the first try is recognised whatever becomes of ``now``.
    """

    def __init__(
        self, records: Records, *, now: Callable[[], datetime], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = records
        self._now = now
        self._clock = clock
        self._tries: LRUCache[str, int] = LRUCache(_REMEMBERED)  # by key; any other was tried once
        self._given: LRUCache[str, deque[tuple[str, float]]] = LRUCache(_REMEMBERED)  # keys, and when

    async def key(self, caller: Caller, body: Mapping[str, Any], retry: int) -> str:
        """The key for a call with this body; ``retry`` is 0 for a first try."""
        asked = orjson.dumps([caller.tenant, caller.name, body], option=orjson.OPT_SORT_KEYS)
        prefix = f"openai {hashlib.sha256(asked).hexdigest()}"
        now = self._now()
        if retry > 0:
            first, last = f"{prefix} {_stamp(now - _WINDOW)}", f"{prefix} ~"
            found = await self._records.read(partial(call_records.keys_between, caller.tenant, first, last))
            since = self._clock() - _WINDOW.total_seconds()
            given = {key for key, at in self._given.get(prefix, ()) if at >= since}
            if keys := sorted(given | {key.rpartition(" ")[0] for key in found}):
                key = next((key for key in keys if self._tries.get(key, 1) <= retry), keys[-1])
                self._tries[key] = retry + 1
                return key
        key = f"{prefix} {_stamp(now)}{secrets.token_hex(4)}"
        self._given.setdefault(prefix, deque(maxlen=_EQUAL)).append((key, self._clock()))
        return key


def retry_count(http: web.Request) -> int | None:
    """The number of the retry that OpenAI's clients send, 0 for a first try; None from other clients."""
    text = http.headers.get("x-stainless-retry-count", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None


def _stamp(when: datetime) -> str:
    return f"{int(when.timestamp() * 1000):012x}"
