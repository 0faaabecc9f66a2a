"""Access: who may see a picture. Headers are used as sent, and nothing in them raises."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.errors import NotFound, PermissionDenied, Unauthenticated
from blossom_async.gateway.http.addresses import client_address
from blossom_async.gateway.serving.access import (
    Viewer,
    address_allowed,
    check_access,
    site_allowed,
)
from blossom_async.rules import domain_rule, network_rule
from tests.quickest import quickest

DOMAINS = (
    "myapp.com",
    "k.example",
    "*.shop.example",
    "xn--mnchen-3ya.de",
    "192.168.1.5",
    "2001:db8::1",
    "localhost",
)


# Networks


@pytest.mark.parametrize(
    ("address", "network", "allowed"),
    [
        ("192.168.1.7", "192.168.1.0/24", True),
        ("192.168.2.7", "192.168.1.0/24", False),
        ("192.168.1.5", "192.168.1.5/32", True),
        ("192.168.1.6", "192.168.1.5/32", False),
        ("2001:db8::7", "2001:db8::/32", True),
        ("2001:db9::7", "2001:db8::/32", False),
        ("192.168.1.7", "2001:db8::/32", False),
        ("::1", "0.0.0.0/1", False),
    ],
)
def test_an_address_is_allowed_inside_a_network(address: str, network: str, allowed: bool) -> None:
    """And never by a network of the other version."""
    assert address_allowed(ip_address(address), [network]) is allowed
    assert address_allowed(ip_address(address), ["198.51.100.0/24", network]) is allowed


def test_no_address_is_never_allowed_and_no_network_allows_nobody() -> None:
    """Both ways there is nothing that says yes."""
    assert not address_allowed(None, ["192.168.1.0/24", "128.0.0.0/1", "8000::/1"])
    assert not address_allowed(ip_address("192.168.1.7"), [])


@given(address=st.ip_addresses())
def test_an_address_is_allowed_by_the_rule_written_for_it(address: IPv4Address | IPv6Address) -> None:
    """What ``network_rule`` makes of an address admits this viewer, mapped or not."""
    assert address_allowed(client_address(str(address), (), ()), [network_rule(str(address))])


# Sites

_ALLOWED_SITES = [
    "https://myapp.com",
    "http://myapp.com",
    "HTTPS://MYAPP.COM",
    "https://myapp.com.",
    "HTTPS://MYAPP.COM.:443",
    "https://myapp.com:8443",
    "http://myapp.com:1",
    "https://a.shop.example",
    "https://a.b.c.shop.example",
    "https://a_b.shop.example",
    "https://a.SHOP.example.:8443",
    "https://xn--mnchen-3ya.de",
    "https://XN--MNCHEN-3YA.DE",
    "http://192.168.1.5:3000",
    "http://[2001:db8::1]",
    "http://[2001:DB8:0:0::1]:3000",
    "http://[::ffff:192.168.1.5]",
    "http://localhost:5173",
]
_REFUSED_SITES = [
    "",
    "null",
    "*",
    "myapp.com",
    "//myapp.com",
    "https:myapp.com",
    "https:/myapp.com",
    "https:///myapp.com",
    "https://",
    "https://.",
    "https://:443",
    "ftp://myapp.com",
    "file://myapp.com",
    "javascript://myapp.com",
    "data:text/html,https://myapp.com",
    "blob:https://myapp.com",
    "about:blank",
    "view-source:https://myapp.com",
    "chrome-extension://myapp.com",
    "android-app://myapp.com",
    "httpss://myapp.com",
    "http\u017f://myapp.com",
    "https://\u212a.example",
    "https://evil.com",
    "https://evil-myapp.com",
    "https://evilmyapp.com",
    "https://myapp.com.evil.com",
    "https://myapp.comevil.com",
    "https://myapp.co",
    "https://yapp.com",
    "https://a.myapp.com",
    "https://www.myapp.com",
    "https://.myapp.com",
    "https://myapp..com",
    "https://myapp.com..",
    "https://shop.example",
    "https://.shop.example",
    "https://evilshop.example",
    "https://a..shop.example",
    "https://-.shop.example",
    "https://*.shop.example",
    "https://a.shop.example.evil.com",
    "https://myapp.com@evil.com",
    "https://user@myapp.com",
    "https://user:password@myapp.com",
    "https://evil.com@myapp.com",
    "https://evil.com:443@myapp.com",
    "https://@myapp.com",
    "https://evil.com\\@myapp.com",
    "https://myapp.com\\@evil.com",
    "https:\\\\myapp.com",
    "https://evil.com\\.myapp.com",
    "https://myapp.com\\",
    "https://my\tapp.com",
    "https://myapp.com\n",
    "\thttps://myapp.com",
    " https://myapp.com",
    "https://myapp.com ",
    "https://myapp.com\x00",
    "https://myapp.com\x00.evil.com",
    "https://evil.com\x00.myapp.com",
    "https://my\u00adapp.com",
    "https://myapp\u3002com",
    "https://ｍｙａｐｐ.com",
    "https://mуapp.com",  # with a Cyrillic letter
    "https://münchen.de",
    "https://xn--mnchen-3yb.de",
    "https://myapp%2ecom",
    "https://%6dyapp.com",
    "https://myapp.com%00",
    "https://myapp.com%2f@evil.com",
    "https://myapp.com:",
    "https://myapp.com:x",
    "https://myapp.com:443:443",
    "https://myapp.com:-1",
    "https://myapp.com:443443443",
    "https://myapp.com;evil.com",
    "https://myapp.com,evil.com",
    "https://evil.com,https://myapp.com",
    "https://myapp.com https://myapp.com",
    "https://myapp.com, https://myapp.com",
    '"https://myapp.com"',
    "<https://myapp.com>",
    "https://192.168.1.5.evil.com",
    "http://192.168.1.05",
    "http://192.168.261",
    "http://192.168.1.0x5",
    "http://3232235781",
    "http://[192.168.1.5]",
    "http://[2001:db8::1",
    "http://2001:db8::1",
    "http://[2001:db8::1%25eth0]",
    "http://[2001:db8::2]",
    "http://[::1]@localhost",
    "http://127.0.0.1",
    "http://\udcff",
]


@pytest.mark.parametrize("site", _ALLOWED_SITES)
def test_an_allowed_site_is_allowed_in_either_header(site: str) -> None:
    """Row 43: case, a trailing dot, the port and the spelling of an address do not matter."""
    assert site_allowed([site], [], DOMAINS)
    assert site_allowed([], [site], DOMAINS)
    assert site_allowed([], [f"{site}/"], DOMAINS)
    assert site_allowed([], [f"{site}/a/b.html?c=d&e=//x@y:z\\"], DOMAINS)
    assert site_allowed([site], [f"{site}/a"], DOMAINS)


@pytest.mark.parametrize("site", _REFUSED_SITES)
def test_any_other_site_is_refused_in_either_header(site: str) -> None:
    """Rows 42, 45 and 46: suffixes, prefixes, users, odd schemes and whatever parsers disagree about."""
    assert not site_allowed([site], [], DOMAINS)
    assert not site_allowed([], [site], DOMAINS)
    assert not site_allowed([], [f"{site}/"], DOMAINS)


@pytest.mark.parametrize(
    "referer",
    [
        "https://evil.com/?myapp.com",
        "https://evil.com/https://myapp.com/",
        "https://evil.com#myapp.com",
        "https://evil.com/#@myapp.com",
        "https://evil.com?https://myapp.com/",
        "https://myapp.com#@evil.com",
        "https://myapp.com?@evil.com",
        "https://myapp.com#x",
        "https://myapp.comé",
        "https://myapp.com\udcff/",
        "https://evil.com/é#https://myapp.com/",
        "https://evil.com/#/https://myapp.com/",
        "https://myapp.com/a b",
        "https://myapp.com/\\evil.com",
        "https://myapp.com/\t",
        "https://myapp.com/#\x00",
    ],
)
def test_what_follows_the_host_of_a_referer_never_makes_it_allowed(referer: str) -> None:
    """Other sites that name an allowed one, and texts that no browser sends as a Referer."""
    assert not site_allowed([], [referer], DOMAINS)


@pytest.mark.parametrize(
    "tail",
    ["#x", "#@evil.com", "a?b#c?d", "é", "日本/語?名=値#絵", "\udcff\udcc3", "a%20b#\\evil.com", "\u2028"],
)
def test_a_referer_may_have_a_fragment_and_characters_beyond_ascii(tail: str) -> None:
    """Apps and old browsers send both; behind the slash neither changes the host."""
    assert site_allowed([], [f"https://myapp.com/{tail}"], DOMAINS)
    assert not site_allowed([], [f"https://evil.com/{tail}"], DOMAINS)
    assert not site_allowed([f"https://myapp.com/{tail}"], [], DOMAINS)


def test_an_origin_has_no_path() -> None:
    """RFC 6454, 6.2: a scheme, a host, perhaps a port."""
    assert not site_allowed(["https://myapp.com/"], [], DOMAINS)


def test_without_origin_and_referer_no_site_is_allowed() -> None:
    """Row 44."""
    assert not site_allowed([], [], DOMAINS)


def test_all_headers_that_are_present_must_be_allowed() -> None:
    """Row 47, both ways."""
    good, evil = "https://myapp.com", "https://evil.com"
    assert not site_allowed([evil], [f"{good}/"], DOMAINS)
    assert not site_allowed([good], [f"{evil}/"], DOMAINS)
    assert not site_allowed(["null"], [f"{good}/"], DOMAINS)
    assert not site_allowed([good], [""], DOMAINS)


def test_a_header_sent_twice_is_refused() -> None:
    """Row 45: even when both values are allowed."""
    good = "https://myapp.com"
    assert not site_allowed([good, good], [], DOMAINS)
    assert not site_allowed([], [good, good], DOMAINS)
    assert not site_allowed([good], [good, "https://evil.com"], DOMAINS)


def test_no_domains_allow_no_site() -> None:
    """There is nothing that says yes."""
    assert not site_allowed(["https://myapp.com"], [], [])


@given(
    origins=st.lists(st.text(max_size=60), max_size=2),
    referers=st.lists(st.text(max_size=20).map("https://{}".format), max_size=2),
)
def test_no_text_raises_or_gets_in(origins: list[str], referers: list[str]) -> None:
    """Random headers never name a host of 32 given characters."""
    assert not site_allowed(origins, referers, ["0123456789abcdef0123456789abcdef"])


@given(
    before=st.text("a.-@:/\\%#?* \t\n", max_size=6),
    after=st.text("a.-@:/\\%#?* \t\n0", max_size=6),
)
def test_around_an_allowed_host_only_harmless_text_is_let_through(before: str, after: str) -> None:
    """A Referer that is let in has nothing before the host, and after it a dot, port, path or query only."""
    if site_allowed([], [f"https://{before}myapp.com{after}"], ["myapp.com"]):
        assert before == ""
        assert after.lstrip(".")[:1] in {"", ":", "/"}
        assert "@" not in after.partition("/")[0]


@given(
    host=st.from_regex(r"\A([a-z][a-z0-9]{0,8}\.){1,3}[a-z]{2,6}\Z"),
    port=st.none() | st.integers(1, 65535),
    label=st.from_regex(r"\A[a-z0-9]{1,8}\Z"),
)
def test_a_rule_admits_its_own_host_and_a_wildcard_only_below_it(
    host: str, port: int | None, label: str
) -> None:
    """For every host and port: exactly the host, or exactly what is under it."""
    at_port = f"{host}:{port}" if port else host
    exact, below = domain_rule(host.upper()), domain_rule(f"*.{host}")
    assert site_allowed([f"https://{at_port}"], [], [exact])
    assert not site_allowed([f"https://{label}.{at_port}"], [], [exact])
    assert site_allowed([f"https://{label}.{at_port}"], [], [below])
    assert not site_allowed([f"https://{at_port}"], [], [below])
    assert not site_allowed([f"https://{label}{at_port}"], [], [exact, below])


_CRAFTED = [
    "https://" + "a." * 4096,
    "https://" + "a" * 8192,
    "https://" + "a-" * 4096 + "!",
    "https://" + "-" * 8192,
    "https://[" + ":" * 8192 + "]",
    "https://" + "0." * 4096,
    "https://myapp.com/" + "?" * 8192 + "# ",
    "https://myapp.com/" + "/?" * 4096 + " ",
    "https://myapp.com:" + "4" * 8192,
    "https://" * 1024,
    "\\" * 8192,
]


@pytest.mark.parametrize("crafted", _CRAFTED, ids=range(len(_CRAFTED)))
def test_a_crafted_site_is_refused_about_as_fast_as_another_of_its_length(crafted: str) -> None:
    """Row 72: the time grows with the length of the header, not with its square."""
    harmless = "https://myapp.com/".ljust(8192, "a")
    base = quickest(lambda: site_allowed([], [harmless], DOMAINS))
    assert quickest(lambda: site_allowed([crafted], [crafted], DOMAINS)) < 200 * base
    assert not site_allowed([], [crafted], DOMAINS)


# One picture

OWNER = "tenant-of-the-owner"
WELCOME = Viewer(
    address=ip_address("192.168.1.7"),
    authorization_tenant=OWNER,
    origins=["https://myapp.com"],
    referers=[],
)


def check(
    viewer: Viewer,
    *,
    auth: bool = True,
    network: str | None = "192.168.1.0/24",
    domain: str | None = "myapp.com",
) -> None:
    check_access(
        require_auth=auth,
        owner=OWNER,
        ip_whitelist=[network] if network else [],
        allowed_domains=[domain] if domain else [],
        viewer=viewer,
    )


STRANGER = Viewer(address=None, authorization_tenant=None, origins=[], referers=[])


def test_a_picture_without_rules_is_for_everybody() -> None:
    """Only what is set must hold."""
    check(STRANGER, auth=False, network=None, domain=None)


def test_a_viewer_whom_all_rules_welcome_sees_the_picture() -> None:
    """With every rule set."""
    check(WELCOME)


def test_without_a_valid_key_a_picture_that_needs_one_is_401() -> None:
    """The first check, whatever else is wrong."""
    with pytest.raises(Unauthenticated) as caught:
        check(attrs.evolve(STRANGER, origins=["https://evil.com"]))
    assert caught.value.status == 401


def test_the_key_of_another_tenant_sees_what_an_unknown_picture_shows() -> None:
    """The same 404 as for a URL without a picture, before the other rules."""
    with pytest.raises(NotFound, match=r"^There is no picture under this URL\. \(404 not_found\)$"):
        check(attrs.evolve(STRANGER, authorization_tenant="another"))


def test_another_address_is_403_before_the_site_is_looked_at() -> None:
    """The address is checked before the site."""
    viewer = attrs.evolve(WELCOME, address=ip_address("192.168.2.7"), origins=["https://evil.com"])
    with pytest.raises(PermissionDenied) as caught:
        check(viewer)
    assert (caught.value.status, caught.value.code) == (403, "address_not_allowed")


def test_an_unknown_address_is_403() -> None:
    """A viewer whose address cannot be told is in no network."""
    with pytest.raises(PermissionDenied) as caught:
        check(attrs.evolve(WELCOME, address=None))
    assert caught.value.code == "address_not_allowed"


@pytest.mark.parametrize("origins", [["https://evil.com"], [], ["null"]])
def test_another_site_is_403(origins: list[str]) -> None:
    """The last check."""
    with pytest.raises(PermissionDenied) as caught:
        check(attrs.evolve(WELCOME, origins=origins))
    assert (caught.value.status, caught.value.code) == (403, "site_not_allowed")


@pytest.mark.parametrize("rule", ["auth", "network", "domain"])
def test_each_rule_holds_without_the_others(rule: str) -> None:
    """A rule that is set alone refuses a stranger."""
    rules = {"auth": False, "network": None, "domain": None}
    full = {"auth": True, "network": "192.168.1.0/24", "domain": "myapp.com"}
    with pytest.raises((Unauthenticated, PermissionDenied)):
        check(STRANGER, **{**rules, rule: full[rule]})  # type: ignore[arg-type]
    check(WELCOME, **{**rules, rule: full[rule]})  # type: ignore[arg-type]


def test_a_key_opens_nothing_that_the_other_rules_close() -> None:
    """The owner's own key does not replace the right address."""
    with pytest.raises(PermissionDenied):
        check(attrs.evolve(WELCOME, address=ip_address("8.8.8.8")), auth=False, domain=None)


@pytest.mark.parametrize(
    "viewer",
    [
        STRANGER,
        attrs.evolve(STRANGER, authorization_tenant="another"),
        attrs.evolve(WELCOME, address=None),
        attrs.evolve(WELCOME, origins=[]),
    ],
    ids=["key", "tenant", "address", "site"],
)
def test_a_refusal_tells_nothing_of_the_rules(viewer: Viewer) -> None:
    """No network, domain, owner or viewer is in the sentence."""
    with pytest.raises((Unauthenticated, NotFound, PermissionDenied)) as caught:
        check(viewer)
    for secret in ("192.168", "/24", "myapp", OWNER, "another"):
        assert secret not in str(caught.value)
