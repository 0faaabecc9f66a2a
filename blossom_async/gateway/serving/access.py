"""Who may see a picture, and which address a request comes from. Decides only; no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

from blossom_async.errors import NotFound, PermissionDenied, Unauthenticated
from blossom_async.rules import host_name, unmapped

__all__ = ["Viewer", "address_allowed", "check_access", "client_address", "site_allowed"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAX_HOPS = 32
_SITE = r"https?://(\[[0-9a-f:.]+\]|[0-9a-z.-]+)(?::[0-9]{1,5})?"
_ORIGIN = re.compile(_SITE, re.ASCII | re.IGNORECASE)  # RFC 6454, 6.2
# RFC 9110, 10.1.3: no user, no fragment. Backslashes, which browsers read as slashes, only in the query.
_REFERER = re.compile(rf"{_SITE}(?:/[!\"$->@-\[\]-~]*(?:\?[!\"$-~]*)?)?", re.ASCII | re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Viewer:
    """Who asks for a picture, as far as the request tells.

    ``address`` as ``client_address`` gives it. ``authorization_tenant`` is None without a valid API key.
    ``origins`` and ``referers`` are all values of these headers, as they were sent.
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
    """That the viewer may see a picture: every rule that is set must hold. The order is the security.

    Raises ``Unauthenticated`` without a valid key, ``NotFound`` with the key of another tenant than the
    ``owner``, as if there were no picture, and ``PermissionDenied`` (``address_not_allowed``,
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
            "This picture is not shown to the address of this request; "
            "its owner decides which addresses may see it.",
            code="address_not_allowed",
        )
    if allowed_domains and not site_allowed(viewer.origins, viewer.referers, allowed_domains):
        raise PermissionDenied(
            "This picture is only shown inside the sites its owner chose, to browsers that say which site "
            "they are on; open the page that shows it.",
            code="site_not_allowed",
        )


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """The viewer's address: the peer of the connection, or behind trusted proxies the one they name.

    ``forwarded`` is every line of ``X-Forwarded-For``, in order, and counts only when the peer is trusted.
    It is read from the right: the first address that is not trusted is the viewer, or the leftmost when all
    are. What stands further left is the viewer's own invention. None, which no rule allows, when the peer
    has no address (a Unix socket), and when a hop met on the way is no plain address: empty, ``unknown``,
    with a port, or the header is missing; or after 32 trusted hops. IPv4-mapped addresses become IPv4.
    """
    address = _address(peer or "")
    if address is None or not _inside(address, trusted):
        return address
    hops = ",".join(forwarded).rsplit(",", _MAX_HOPS)
    for hop in reversed(hops[-_MAX_HOPS:]):
        address = _address(hop.strip(" \t"))
        if address is None or not _inside(address, trusted):
            return address
    return address if len(hops) <= _MAX_HOPS else None


def address_allowed(address: Address | None, networks: Sequence[str]) -> bool:
    """Whether an address from ``client_address`` is in one of the networks, as ``network_rule`` writes them.

    No networks allow nobody.
    """
    return address is not None and _inside(address, _parsed(tuple(networks)))


def site_allowed(origins: Sequence[str], referers: Sequence[str], domains: Sequence[str]) -> bool:
    """Whether the request comes from a page of one of the domains, as ``domain_rule`` writes them.

    Takes every value of the headers Origin and Referer. At least one must be there, neither twice, and each
    must hold an http(s) URL of an allowed host and nothing beyond what browsers send. Ports do not count.
    """
    if len(origins) > 1 or len(referers) > 1 or not (origins or referers):
        return False
    found = [_ORIGIN.fullmatch(value) for value in origins]
    found += [_REFERER.fullmatch(value) for value in referers]
    return all(site is not None and _listed(host_name(site[1]), domains) for site in found)


def _address(text: str) -> Address | None:
    try:
        return unmapped(ip_address(text))
    except ValueError:
        return None


def _inside(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


@lru_cache(maxsize=1024)
def _parsed(networks: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(network) for network in networks)


def _listed(host: str | None, domains: Sequence[str]) -> bool:
    if host is None:
        return False
    return any(host.endswith(domain[1:]) if domain.startswith("*.") else host == domain for domain in domains)
