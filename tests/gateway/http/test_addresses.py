"""Whose request it is: the peer's, or behind trusted proxies the one they name."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.gateway.http.addresses import client_address, inside
from tests.quickest import quickest

PROXIES = (ip_network("10.0.0.0/24"), ip_network("fd00::/8"))


def client(peer: str | None, *forwarded: str) -> str | None:
    address = client_address(peer, forwarded, PROXIES)
    return None if address is None else str(address)


@pytest.mark.parametrize("peer", ["203.0.113.7", "2001:db8::7", "10.0.1.1", "127.0.0.1"])
def test_a_viewer_cannot_name_its_own_address(peer: str) -> None:
    """Row 48: without a trusted proxy in between the header is ignored."""
    assert client(peer, "192.168.1.5") == peer
    assert client(peer) == peer
    assert client_address(peer, ["192.168.1.5"], ()) == ip_address(peer)


@pytest.mark.parametrize(
    ("forwarded", "viewer"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["192.168.1.5, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        (["192.168.1.5, 203.0.113.7, 10.0.0.3, 10.0.0.2"], "203.0.113.7"),
        (["192.168.1.5", "203.0.113.7"], "203.0.113.7"),
        (["192.168.1.5, 203.0.113.7", "10.0.0.2"], "203.0.113.7"),
        (["203.0.113.7, fd00::2"], "203.0.113.7"),
        (["203.0.113.7\t,  10.0.0.2"], "203.0.113.7"),
        (["2001:DB8::7"], "2001:db8::7"),
        (["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
        (["203.0.113.7:51234"], "203.0.113.7"),
        (["192.168.1.5, 203.0.113.7:51234, 10.0.0.2:443"], "203.0.113.7"),
        (["[2001:db8::7]:443, [fd00::2]"], "2001:db8::7"),
        (["[::ffff:203.0.113.7]:443"], "203.0.113.7"),
        (["garbage, 203.0.113.7"], "203.0.113.7"),
        ([",,,203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7," * 5000 + "203.0.113.8"], "203.0.113.8"),
    ],
)
def test_behind_proxies_the_rightmost_untrusted_hop_is_the_viewer(forwarded: list[str], viewer: str) -> None:
    """Rows 49 and 50: what the viewer put in front counts for nothing, lines are joined in order."""
    assert client("10.0.0.1", *forwarded) == viewer


@pytest.mark.parametrize(
    "hop",
    [
        "",
        " ",
        "unknown",
        "_hidden",
        "1.2.3.4:",
        "1.2.3.4:port",
        "1.2.3.4:123456",
        "[1.2.3.4]:80",
        "[]:80",
        "[::1",
        "::1]:80",
        "[[::1]]",
        "[::1]:80:80",
        '"1.2.3.4"',
        "for=1.2.3.4",
        "1.2.3",
        "01.2.3.4",
        "1.2.3.4/32",
        "1.2.3.4%1",
        "16909060",
        "0x7f.0.0.1",
        "１.2.3.4",
        "1.2.3.4\x00",
        "1.2.3.4\n",
        "\udcff",
        "1" * 10_000,
        ":" * 10_000,
    ],
)
@pytest.mark.parametrize("behind", ["", ", 10.0.0.2"])
def test_a_hop_that_is_no_address_is_nobody(hop: str, behind: str) -> None:
    """Row 51: denied, never an exception."""
    assert client("10.0.0.1", f"203.0.113.7, {hop}{behind}") is None


def test_a_proxy_that_names_nobody_hides_its_viewer() -> None:
    """The address of the proxy is not the viewer's."""
    assert client("10.0.0.1") is None


@pytest.mark.parametrize("peer", [None, "", "@socket", "localhost", "unix:"])
def test_a_peer_without_an_address_is_nobody(peer: str | None) -> None:
    """Row 55: nobody can say who is behind a Unix socket."""
    assert client(peer, "203.0.113.7") is None


@pytest.mark.parametrize("peer", ["::ffff:192.168.1.7", "::FFFF:c0a8:107"])
def test_ipv4_inside_ipv6_is_ipv4(peer: str) -> None:
    """Row 52: a listener on ``[::]`` sees such peers."""
    assert client_address(peer, (), ()) == IPv4Address("192.168.1.7")
    assert client("10.0.0.1", peer) == "192.168.1.7"
    assert client("::ffff:10.0.0.1", "203.0.113.7, ::ffff:10.0.0.2") == "203.0.113.7"


def test_the_zone_of_a_peer_is_left_away() -> None:
    """Link-local peers carry the name of an interface."""
    address = client_address("fe80::1%eth0", (), ())
    assert address == IPv6Address("fe80::1")
    assert inside(address, [ip_network("fe80::/64")])


@pytest.mark.parametrize(("hops", "viewer"), [(31, "203.0.113.7"), (32, None), (1000, None)])
def test_a_chain_of_proxies_is_followed_for_32_hops(hops: int, viewer: str | None) -> None:
    """More are no real chain."""
    assert client("10.0.0.1", ", ".join(["203.0.113.7", *["10.0.0.2"] * hops])) == viewer


def test_32_trusted_hops_and_nothing_else_still_name_the_leftmost() -> None:
    """The limit is on what is read, not on what is there."""
    assert client("10.0.0.1", ", ".join(["10.0.0.9", *["10.0.0.2"] * 31])) == "10.0.0.9"
    assert client("10.0.0.1", ", ".join(["10.0.0.9", *["10.0.0.2"] * 32])) is None


_HOPS = (
    st.ip_addresses().map(str) | st.text(max_size=12) | st.sampled_from(["10.0.0.2", "fd00::2", "unknown"])
)


@given(
    peer=st.none() | st.text(max_size=20) | st.just("10.0.0.1"),
    lines=st.lists(st.lists(_HOPS, max_size=5).map(", ".join) | st.text(max_size=40), max_size=4),
)
def test_no_header_raises(peer: str | None, lines: list[str]) -> None:
    """Whatever is sent, the answer is an address without zone and mapping, or None."""
    address = client_address(peer, lines, PROXIES)
    if isinstance(address, IPv6Address):
        assert address.ipv4_mapped is None
        assert address.scope_id is None


@given(
    invented=st.lists(_HOPS, max_size=4),
    viewer=st.ip_addresses(v=4, network="203.0.113.0/24").map(str),
    hops=st.lists(st.sampled_from(["10.0.0.2", "fd00::2", "::ffff:10.0.0.3"]), max_size=5),
    cut=st.integers(0, 10),
)
def test_nothing_a_viewer_sends_changes_its_address(
    invented: list[str], viewer: str, hops: list[str], cut: int
) -> None:
    """For every invented start of the list, and however proxies spread it over lines."""
    entries = [*invented, viewer, *hops]
    lines = [", ".join(entries[:cut]), ", ".join(entries[cut:])]
    assert client("10.0.0.1", *[line for line in lines if line]) == viewer


@pytest.mark.parametrize(
    "line",
    ["10.0.0.2, " * 1000 + "10.0.0.2", "," * 10_000, "1" * 10_000, ":" * 10_000, "." * 10_000, "a," * 5000],
)
def test_a_crafted_line_is_read_about_as_fast_as_another_of_its_length(line: str) -> None:
    """Row 72 for 10 kB of X-Forwarded-For."""
    harmless = ", ".join(["203.0.113.7"] * 800)
    assert quickest(lambda: client("10.0.0.1", line)) < 200 * quickest(lambda: client("10.0.0.1", harmless))
