"""The accounts at the providers: what each is reached with, and the connections to it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs

from blossom_async.batch import Gate, GatePlace, SharedGate
from blossom_async.errors import ConfigurationError
from blossom_async.gateway.making.upstreams import Limits, Upstream, Upstreams
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Provider
from blossom_async.gateway.providers.offline import Offline
from blossom_async.gateway.providers.openai import OpenAI
from blossom_async.gateway.providers.pollinations import Pollinations
from blossom_async.gateway.providers.wire import Heed, Secret, provider_session, service_url
from blossom_async.guard import Guard
from blossom_async.proxies import proxy_for

__all__ = ["Account", "connected"]

_PATIENCE_S = 5.0  # for the database that has a shared rate


@attrs.frozen(kw_only=True)
class Account:
    """A provider as the operator has set it up: ``offline``, ``pollinations`` or ``openai``.

    ``model`` draws where a request names none. Of ``key`` and ``key_file`` one may be set. ``keyed``: the
    server honours ``Idempotency-Key``. ``omit``: parameters it is never sent. ``use_proxies``: it is reached
    through the proxy that the environment names. The offline renderer needs ``limits`` only.
    """

    provider: str
    limits: Limits
    url: str = ""
    model: str | None = None
    key: str | None = attrs.field(default=None, repr=False)
    key_file: Path | None = None
    keyed: bool = False
    omit: tuple[str, ...] = ()
    timeout_s: float = 300.0
    use_proxies: bool = True


@asynccontextmanager
async def connected(
    upstreams: Upstreams, accounts: Iterable[Account], workers: Workers, *, gates: GatePlace | None = None
) -> AsyncIterator[None]:
    """Adds a provider to ``upstreams`` for each account; on leaving, closes their connections.

    Their rates hold for all processes whose ``gates`` are the same place; None: for this process alone. With
    ``gates``, the slots at those that are reached over a network are shared, too.

    Raises ``ConfigurationError`` for a key that cannot be read, an invalid address, and a provider without
    the model it needs.
    """
    async with AsyncExitStack() as sessions:
        for account in accounts:
            gate = _gate(account, gates)
            provider = await _provider(account, sessions, workers, gate.heed)
            shared = gates is not None and provider.remote
            upstream = Upstream(provider, account.limits, clock=time.monotonic, gate=gate, shared=shared)
            upstreams.add(upstream)
        yield


def _gate(account: Account, gates: GatePlace | None) -> Gate:
    if gates is None or not account.limits.rates:
        return Gate(*account.limits.rates)
    (rate,) = account.limits.rates
    return SharedGate(f"provider.{account.provider}", rate, slots=gates, patience_s=_PATIENCE_S)


async def _provider(account: Account, sessions: AsyncExitStack, workers: Workers, heed: Heed) -> Provider:
    if account.provider == "offline":
        return Offline(workers.run)
    if account.model is None:
        raise ConfigurationError(
            f"the provider {account.provider} draws with no model: set "
            f"BLOSSOM_{account.provider.upper()}_MODEL, such as gpt-image-2"
        )
    key = _secret(account)
    address = service_url(account.provider, account.url)
    proxy = proxy_for(address) if account.use_proxies else None
    session = await sessions.enter_async_context(provider_session(proxy=proxy))
    if account.provider == "pollinations":
        return Pollinations(
            session,
            key=key,
            base_url=account.url,
            model=account.model,
            timeout_s=account.timeout_s,
            heed=heed,
        )
    # A server on a private network gives URLs on itself; others may lead to the internet only.
    guard = Guard({f"{address.host}:{address.port}"})
    downloads = await sessions.enter_async_context(provider_session(guard.socket, guard.resolver()))
    return OpenAI(
        session,
        downloads,
        key=key,
        base_url=account.url,
        model=account.model,
        keyed=account.keyed,
        omit=account.omit,
        timeout_s=account.timeout_s,
        heed=heed,
    )


def _secret(account: Account) -> Secret | None:
    key, file = account.key, account.key_file
    name = f"BLOSSOM_{account.provider.upper()}_KEY"
    if key is not None and file is not None:
        raise ConfigurationError(f"{name} and {name}_FILE are both set; keep one")
    if file is not None:
        try:
            key = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(
                f"{name}_FILE: {file} cannot be read ({type(exc).__name__}); check its name and its owner"
            ) from None
    return None if key is None else Secret(key)
