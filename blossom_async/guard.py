"""The addresses that a request to an untrusted URL may connect to."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Collection
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["AddressInfo", "Guard", "is_public", "is_this_machine"]

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""What ``getaddrinfo`` answers for one address; aiohttp's own name for it leaves parts of its type out."""

_WITH_IPV4 = tuple(  # NAT64 (RFC 6052), IPv4-translated (RFC 2765): the IPv4 address comes last
    ipaddress.ip_network(network) for network in ("64:ff9b::/96", "::ffff:0:0:0/96")
)
_ISATAP = {0x00005EFE, 0x02005EFE}  # RFC 5214, 6.1
_NOT_PUBLIC = tuple(  # though global to Python 3.11: 6to4 relay, site-local, documentation, SRv6, dummy
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.8/32",
        "192.88.99.0/24",
        "64:ff9b:1::/48",
        "fec0::/10",
        "3fff::/20",
        "5f00::/16",
        "100:0:0:1::/64",
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet.

    An IPv6 address that contains an IPv4 one (mapped, compatible, translated, 6to4, NAT64, Teredo, ISATAP) is
    public only if the IPv4 address is: ``ipaddress`` calls the NAT64 form of a link-local address global.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        last = str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(ip in network for network in _WITH_IPV4):
            return is_public(last)
        # An ISATAP interface id can be in any network, which has to be public, too.
        if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP and not is_public(last):
            return False
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and int(ip) >> 32 == 0:
            inner = ipaddress.IPv4Address(int(ip))
        if inner is not None:
            return is_public(str(inner))
    excluded = any(ip.version == network.version and ip in network for network in _NOT_PUBLIC)
    return ip.is_global and not ip.is_multicast and not excluded


def is_this_machine(host: str | None) -> bool:
    """Whether a host name or address, as it stands, leads to the machine it is used on."""
    if host is None or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified


class Guard:
    """Restricts a session's connector to trusted hosts and, if ``public``, to the internet.

    ``trusted`` lists hosts ("host" for any port, or "host:port"), whatever they resolve to. The rule is
    applied to each address before connecting to it, so it holds for IP literals, for every DNS answer and for
    each redirect.
    """

    def __init__(self, trusted: Collection[str], *, public: bool = True) -> None:
        self._trusted = frozenset(trusted)
        self._public = public
        self._addresses: set[tuple[str, int]] = set()  # of trusted hosts

    def resolver(self) -> AbstractResolver:
        """The resolver for the connector. To be called in the event loop."""
        return _Resolver(self)

    def socket(self, info: AddressInfo) -> socket.socket:
        """The socket factory for the connector. Raises ``PermissionError`` for a forbidden address."""
        family, kind, protocol, _, address = info
        host, port = str(address[0]), int(address[1])
        if not self._trusts(host, port) and (host, port) not in self._addresses:
            if not self._public:
                raise PermissionError(errno.EACCES, f"{host} is not an address of a host that warmup allows")
            if not is_public(host):
                raise PermissionError(errno.EACCES, f"{host} is not a public address")
        return socket.socket(family, kind, protocol)

    def resolved(self, host: str, port: int, addresses: Collection[str]) -> None:
        """Records the addresses that a host's name resolves to."""
        if self._trusts(host, port):
            self._addresses.update((address, port) for address in addresses)

    def _trusts(self, host: str, port: int) -> bool:
        return host in self._trusted or f"{host}:{port}" in self._trusted


class _Resolver(aiohttp.ThreadedResolver):
    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = await super().resolve(host, port, family)
        self._guard.resolved(host, port, [answer["host"] for answer in answers])
        return answers
