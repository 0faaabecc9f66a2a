"""The address a request comes from, and whether a network holds it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from blossom_async.rules import unmapped

if TYPE_CHECKING:  # settings are read without a server
    from aiohttp import web

__all__ = [
    "Address",
    "Network",
    "client_address",
    "connected_from",
    "inside",
    "network",
    "sender",
]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAX_HOPS = 32
_HOP = re.compile(r"([0-9.]{7,15}):[0-9]{1,5}|\[([0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\](?::[0-9]{1,5})?", re.ASCII)


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """The viewer's address: the peer of the connection, or behind trusted proxies the one they name.

    ``forwarded`` is every line of ``X-Forwarded-For``, in order. It is used only if the peer is trusted, and
    read from the right: the viewer is the first address that is not trusted, or the leftmost if all are;
    anything further left may be forged. None, which no rule allows, if the peer has no address (a Unix
    socket), the header is missing, a hop on the way is not an address (empty, ``unknown``), or there are more
    than 32 trusted hops. A hop may have a port, as Azure and IIS write it: ``203.0.113.7:51234``,
    ``[2001:db8::7]:443``. IPv4-mapped addresses become IPv4.
    """
    address = _address(peer or "")
    if address is None or not inside(address, trusted):
        return address
    hops = ",".join(forwarded).rsplit(",", _MAX_HOPS)
    for hop in reversed(hops[-_MAX_HOPS:]):
        address = _address(_without_port(hop.strip(" \t")))
        if address is None or not inside(address, trusted):
            return address
    return address if len(hops) <= _MAX_HOPS else None


def network(address: Address | None) -> str:
    """The address range counted as one caller: an IPv4 address, or the /64 of an IPv6 subscriber."""
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


def sender(request: web.Request, trusted: Sequence[Network]) -> str:
    """The network (see ``network``) that a request comes from."""
    return network(
        client_address(connected_from(request), request.headers.getall("X-Forwarded-For", []), trusted)
    )


def connected_from(request: web.Request) -> str | None:
    """The address of the connection's other end; None for a Unix socket."""
    peername = request.transport.get_extra_info("peername") if request.transport else None
    return peername[0] if isinstance(peername, tuple) else None


def inside(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in networks)


def _without_port(hop: str) -> str:
    found = _HOP.fullmatch(hop)
    return hop if found is None else found[1] or found[2]


@lru_cache(maxsize=1000)
def _address(text: str) -> Address | None:
    try:
        return unmapped(ip_address(text))
    except ValueError:
        return None
