"""Rules for viewers and caches of a picture, each in one canonical form.

The library validates options with them; the gateway compares viewers with the same forms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import idna

__all__ = ["check_cache_wish", "directives", "domain_rule", "host_name", "network_rule", "unmapped"]

_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # URLs may have underscores, as names of services do
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_HOST = 253
_NUMBER = re.compile("[0-9]+|0x[0-9a-f]*")  # such a last label makes the host an IPv4 address
_IPV6 = re.compile(r"\[([0-9a-f:.]{2,45})\]")
_AROUND_HOST = re.compile(
    r"(?:(?:[a-z][a-z0-9+.-]*:)?//)?(\[[^\]]*\]|[^/?#:@\[\]]+)(?::[0-9]+)?(?:[/?#].*)?",
    re.IGNORECASE | re.DOTALL,
)
_DOMAINS = (
    "a host such as 'myapp.com', or '*.myapp.com' for its subdomains at any depth, "
    "without scheme, port and path; '*.' needs a host with a dot in it, not a whole top-level domain"
)

_SYMBOLS = {"So", "Sk"}  # emoji and their skin tones

_CIDR = re.compile(r"[0-9A-Fa-f.:]+(?:/(?:0|[1-9][0-9]{0,2}))?")
_ZONE = re.compile("%[^/]*")
_LEADING_ZEROS = re.compile("(^|[./])0+(?=[0-9])")
_NETWORKS = "an address such as 192.168.1.5, or a network such as 192.168.1.0/24 or 2001:db8::/32"

_DIRECTIVE = re.compile(r'\s*([^\s=,;"]+)\s*(?:=\s*("[^"]*"|[^\s,"]*))?\s*(?:,|$)')
_FOR_SIGNED = frozenset(
    {"private", "no-cache", "no-store", "no-transform", "must-revalidate", "proxy-revalidate", "max-age"}
)
_FOR_RESTRICTED = _FOR_SIGNED - {"proxy-revalidate"}


def domain_rule(value: str) -> str:
    """The canonical form of a host pattern: a host, or ``*.`` and a host for its subdomains but not itself.

    Lower case, names in other scripts as ``xn--``, no trailing dot, IP addresses compressed and without
    brackets. Public suffixes such as ``co.uk`` are not recognised. Raises ``ValueError`` that says what is
    allowed and, if it can be guessed, what was meant.
    """
    rule = _domain(value)
    if rule is not None:
        return rule
    if value in {"*", "*.*"}:
        raise ValueError(f"{_DOMAINS}; omit allowed_domains to allow every site")
    meant = _meant_domain(value)
    raise ValueError(f"{_DOMAINS}; did you mean {meant!r}?" if meant else _DOMAINS)


def network_rule(value: str) -> str:
    """The canonical CIDR of an address or network: ``192.168.1.5`` is ``192.168.1.5/32``.

    IPv4-mapped IPv6 (``::ffff:192.168.1.0/120``) becomes IPv4; wider IPv6 networks match no IPv4 address.
    Raises ``ValueError`` that says what is allowed and, if it can be guessed, what was meant: for host bits
    that are set, netmasks, leading zeros and zones. Networks of all addresses are refused.
    """
    meant = _meant_network(value)
    if (meant is not None and meant.prefixlen == 0) or re.search("/0+$", value):
        raise ValueError(f"{_NETWORKS}; omit ip_whitelist to allow every address")
    if _CIDR.fullmatch(value):
        try:
            return str(_unmapped_network(ip_network(value)))
        except ValueError:
            pass  # host bits, leading zeros, or not an address
    raise ValueError(f"{_NETWORKS}; did you mean {str(meant)!r}?" if meant else _NETWORKS)


def check_cache_wish(cache_control: str, *, restricted: bool, signed: bool) -> None:
    """Raises ``ValueError`` for a Cache-Control that is weaker than a non-public picture requires.

    ``restricted`` pictures are checked on each use (``require_auth``, ``ip_whitelist``, ``allowed_domains``);
    ``signed`` ones are valid as long as their URL. The value must be well formed. The error says what is
    allowed.
    """
    if not restricted and not signed:
        return
    known = _FOR_RESTRICTED if restricted else _FOR_SIGNED
    for name, value in directives(cache_control):
        # With an argument, no-cache and private apply to the header fields it names, not to the picture.
        sound = value is None if name != "max-age" else not restricted or value == "0"
        if name in known and sound:
            continue
        which = "with require_auth, ip_whitelist or allowed_domains" if restricted else "with a signed URL"
        names = ", ".join([*sorted(known - {"max-age"}), "max-age=0" if restricted else "max-age"])
        seen = name if value is None else f"{name}={value}"
        raise ValueError(f"for a picture {which} only {names}; remove {seen!r}, or omit cache_control")


def directives(cache_control: str) -> Iterator[tuple[str, str | None]]:
    """The directives of a Cache-Control value, in order: lower-case name, and argument as written."""
    for found in _DIRECTIVE.finditer(cache_control):
        yield found[1].lower(), found[2]


def host_name(text: str) -> str | None:
    """The canonical form of a URL's host, in ASCII; None if it is invalid.

    IPv6 addresses come in brackets and are returned without. A host that ends in a number must be an IPv4
    address of four decimal numbers, because browsers read ``127.1`` and ``0x7f.0.0.1`` as addresses too.
    """
    if text.startswith("["):
        literal = _IPV6.fullmatch(text.lower())
        return _parsed(IPv6Address, literal[1]) if literal else None
    host = text.lower().removesuffix(".")
    if len(host) > _MAX_HOST or not _HOST.fullmatch(host):
        return None
    return _parsed(IPv4Address, host) if _ends_in_number(host) else host


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address of an IPv4-mapped IPv6 one; any other address without its zone."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _parsed(kind: type[IPv4Address | IPv6Address], text: str) -> str | None:
    try:
        return str(unmapped(kind(text)))
    except ValueError:
        return None


def _ends_in_number(host: str) -> bool:
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def _domain(value: str) -> str | None:
    text = value.removeprefix("*.")
    if len(text) > _MAX_HOST + 1:  # with a trailing dot; idna is slow for long texts
        return None
    try:
        text = text if text.isascii() else _in_ascii(text)
    except UnicodeError:
        return None
    if ":" in text and not text.startswith("["):
        text = f"[{text}]"
    host = host_name(text)
    if value.startswith("*.") and host is not None:
        return f"*.{host}" if "." in host and not _ends_in_number(host) else None
    return host


def _in_ascii(text: str) -> str:
    """A host in another script as browsers send it. Raises ``UnicodeError`` if there is no such host."""
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError:
        return ".".join(map(_label, idna.uts46_remap(text, std3_rules=False).split(".")))


def _label(label: str) -> str:
    """A label with underscores or symbols such as emoji: browsers take them, IDNA 2008 does not."""
    if label.isascii():
        return label
    letters = "".join(one for one in label if one != "_" and unicodedata.category(one) not in _SYMBOLS)
    if not letters.isascii():
        idna.alabel(letters)  # raises for what is no label either way
    return "xn--" + label.encode("punycode").decode("ascii")


def _meant_domain(value: str) -> str | None:
    """The rule meant by a URL, a host with a port, or a wildcard without its dot."""
    found = _AROUND_HOST.fullmatch(value.strip())
    if found is None:
        return None
    host = found[1]
    return _domain(f"*.{host.lstrip('*.')}" if host.startswith(("*", ".")) else host)


def _meant_network(value: str) -> IPv4Network | IPv6Network | None:
    text = _LEADING_ZEROS.sub(r"\1", _ZONE.sub("", value.strip()))
    try:
        return _unmapped_network(ip_network(text, strict=False))
    except ValueError:
        return None


def _unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    # The last of the first 96 bits of a mapped address is set, so the prefix is at least that long.
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - 96))
