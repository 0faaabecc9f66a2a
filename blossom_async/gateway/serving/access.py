"""Who may see a picture. Decides only; no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_network

import attrs

from blossom_async.errors import NotFound, PermissionDenied, Unauthenticated
from blossom_async.gateway.http.addresses import Address, Network, inside
from blossom_async.rules import host_name

__all__ = ["Viewer", "address_allowed", "check_access", "site_allowed"]

_SITE = r"https?://(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::[0-9]{1,5})?"
_ORIGIN = re.compile(_SITE, re.ASCII | re.IGNORECASE)  # RFC 6454, 6.2
# RFC 9110, 10.1.3, and what apps and old browsers send beyond it once the host has ended with a slash: a
# fragment, and characters beyond ASCII. Browsers read a backslash as a slash, except in query and fragment.
_BEYOND = "\x80-\U0010ffff"
_REFERER = re.compile(
    rf"{_SITE}(?:/[!\"$->@-\[\]-~{_BEYOND}]*(?:\?[!\"$-~{_BEYOND}]*)?(?:#[!-~{_BEYOND}]*)?)?",
    re.ASCII | re.IGNORECASE,
)


@attrs.frozen(kw_only=True)
class Viewer:
    """What a request tells about the viewer of a picture.

    ``address`` is what ``client_address`` returns. ``authorization_tenant`` is None without a valid API key.
    ``origins`` and ``referers`` are all values of these headers, exactly as sent.
    """

    address: Address | None
    authorization_tenant: str | None
    origins: Sequence[str]
    referers: Sequence[str]


def check_access(
    *,
    require_auth: bool,
    owner: str,
    ip_whitelist: Sequence[str],
    allowed_domains: Sequence[str],
    viewer: Viewer,
) -> None:
    """Refuses a viewer who may not see the picture. Every rule that is set must hold, the key first.

    Raises ``Unauthenticated`` without a valid key, ``NotFound`` for the key of a tenant other than the
    ``owner`` (as if the picture did not exist), and ``PermissionDenied`` (``address_not_allowed``,
    ``site_not_allowed``).
    """
    if require_auth:
        if viewer.authorization_tenant is None:
            raise Unauthenticated(
                "This picture needs the header 'Authorization: Bearer <API key>' with a valid key; "
                "use the one it was made with."
            )
        if viewer.authorization_tenant != owner:
            raise NotFound("There is no picture under this URL.")
    if ip_whitelist and not address_allowed(viewer.address, ip_whitelist):
        raise PermissionDenied(
            "This picture is not available from your network address; "
            "its owner decides which addresses may see it.",
            code="address_not_allowed",
        )
    if allowed_domains and not site_allowed(viewer.origins, viewer.referers, allowed_domains):
        raise PermissionDenied(
            "This picture is only shown on the sites its owner chose, in browsers that send Origin or "
            "Referer; open the page that shows it.",
            code="site_not_allowed",
        )


def address_allowed(address: Address | None, networks: Sequence[str]) -> bool:
    """Whether an address from ``client_address`` is in one of the networks, in the form of ``network_rule``.

    An empty list allows nobody.
    """
    return address is not None and inside(address, _parsed(tuple(networks)))


def site_allowed(origins: Sequence[str], referers: Sequence[str], domains: Sequence[str]) -> bool:
    """Whether the request comes from a page of one of the domains, in the form of ``domain_rule``.

    Takes all values of the headers Origin and Referer. At least one header must be present, neither may be
    repeated, and each must be an http(s) URL of an allowed host, as browsers send it. Ports are ignored.
    """
    if len(origins) > 1 or len(referers) > 1 or not (origins or referers):
        return False
    found = [_ORIGIN.fullmatch(value) for value in origins]
    found += [_REFERER.fullmatch(value) for value in referers]
    return all(site is not None and _listed(host_name(site[1]), domains) for site in found)


@lru_cache(maxsize=1024)
def _parsed(networks: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(network) for network in networks)


def _listed(host: str | None, domains: Sequence[str]) -> bool:
    if host is None:
        return False
    return any(host.endswith(domain[1:]) if domain.startswith("*.") else host == domain for domain in domains)
