"""The proxy that the environment names for a server: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

from __future__ import annotations

import ipaddress
import urllib.request
from contextlib import suppress

from yarl import URL

from blossom_async.errors import ConfigurationError
from blossom_async.guard import is_this_machine

__all__ = ["proxy_for"]


def proxy_for(url: URL) -> URL | None:
    """The proxy for a request to the URL, None for a direct one; read as ``urllib`` reads the environment.

    This machine is always reached directly. Raises ``ConfigurationError`` for a proxy that is not an http(s)
    URL.
    """
    named = urllib.request.getproxies_environment()
    written = (named.get(url.scheme) or named.get("all") or "").strip()
    if not written or url.host is None or is_this_machine(url.host):
        return None
    if urllib.request.proxy_bypass_environment(f"{url.host}:{url.port}", named):  # type: ignore[attr-defined]
        return None
    if _in_a_network(url.host, named.get("no", "")):
        return None
    try:
        proxy = URL(written if "://" in written else f"http://{written}")
        sound = proxy.scheme in {"http", "https"} and bool(proxy.host) and proxy.port is not None
    except ValueError:
        sound = False
    if not sound:  # not quoted: it may contain a password
        raise ConfigurationError(
            f"the proxy for {url.scheme}://{url.host} cannot be used; allowed in {url.scheme.upper()}_PROXY: "
            "an http(s) URL such as http://proxy.example.com:3128; or list the host in NO_PROXY"
        )
    return proxy


def _in_a_network(host: str, without: str) -> bool:
    """Whether an address is in one of the networks listed in NO_PROXY, which ``urllib`` does not read."""
    for listed in without.split(","):
        with suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(listed.strip(), strict=False):
                return True
    return False
