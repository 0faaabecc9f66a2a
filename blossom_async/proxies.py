"""The proxy that the environment names for a server: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

from __future__ import annotations

import ipaddress
import urllib.request

from yarl import URL

from blossom_async.errors import ConfigurationError

__all__ = ["proxy_for"]


def proxy_for(url: URL) -> URL | None:
    """The proxy for a request to the URL, None for a direct one; read as ``urllib`` reads the environment.

    This machine is always reached directly. Raises ``ConfigurationError`` for a proxy that is not an http(s)
    URL.
    """
    named = urllib.request.getproxies_environment()
    written = (named.get(url.scheme) or named.get("all") or "").strip()
    if not written or url.host is None or _is_this_machine(url.host):
        return None
    if urllib.request.proxy_bypass_environment(f"{url.host}:{url.port}", named):  # type: ignore[attr-defined]
        return None
    try:
        proxy = URL(written if "://" in written else f"http://{written}")
        sound = proxy.scheme in {"http", "https"} and bool(proxy.host) and proxy.port is not None
    except ValueError:
        sound = False
    if not sound:  # not said back: a password may be in it
        raise ConfigurationError(
            f"the proxy for {url.scheme}://{url.host} cannot be used; allowed in {url.scheme.upper()}_PROXY: "
            "an http(s) URL such as http://proxy.example.com:3128; or list the host in NO_PROXY"
        )
    return proxy


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
