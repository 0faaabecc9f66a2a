"""Rules for who may fetch a picture and for caches: one canonical form each, or a sentence that helps."""

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from blossom_async.rules import check_cache_wish, directives, domain_rule, host_name, network_rule, unmapped
from tests.quickest import quickest

# Domains


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("myapp.com", "myapp.com"),
        ("MyApp.COM", "myapp.com"),
        ("myapp.com.", "myapp.com"),
        ("*.myapp.com", "*.myapp.com"),
        ("*.MYAPP.com.", "*.myapp.com"),
        ("localhost", "localhost"),
        ("intranet", "intranet"),
        ("a-b.x1.example", "a-b.x1.example"),
        ("r3---sn-abc.example.com", "r3---sn-abc.example.com"),
        ("1.example", "1.example"),
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("*.MÜNCHEN.de", "*.xn--mnchen-3ya.de"),
        ("XN--MNCHEN-3YA.de", "xn--mnchen-3ya.de"),
        ("faß.de", "xn--fa-hia.de"),
        ("例え.jp", "xn--r8jz45g.jp"),
        ("ｍｙａｐｐ．com", "myapp.com"),
        ("myapp。com", "myapp.com"),
        ("my\u00adapp.com", "myapp.com"),
        ("\u212a.com", "k.com"),
        ("my_app.com", "my_app.com"),
        ("_dmarc.my-app_.internal", "_dmarc.my-app_.internal"),
        ("BÜCHER_shop.de", "xn--bcher_shop-9db.de"),
        ("☃.net", "xn--n3h.net"),
        ("*.🦊.example.com", "*.xn--9s9h.example.com"),
        ("i❤️fox.ws", "xn--ifox-lw4b.ws"),
        ("👍🏽bücher.ws", "xn--bcher-kva72350gjsa.ws"),
        ("192.168.1.5", "192.168.1.5"),
        ("①②⑦.⓪.⓪.①", "127.0.0.1"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("2001:db8::0001", "2001:db8::1"),
        ("::1", "::1"),
        ("[::ffff:192.168.1.5]", "192.168.1.5"),
        ("myapp.1a", "myapp.1a"),
        ("a" * 63 + ".com", "a" * 63 + ".com"),
        (("a" * 49 + ".") * 5 + "com.", ("a" * 49 + ".") * 5 + "com"),
    ],
)
def test_a_domain_has_one_form(value: str, rule: str) -> None:
    """Lower case, ASCII, no trailing dot, addresses as they are written shortest."""
    assert domain_rule(value) == rule


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("https://myapp.com/", "myapp.com"),
        ("HTTPS://MyApp.com:8443/a/b?c#d", "myapp.com"),
        ("//myapp.com", "myapp.com"),
        ("myapp.com:443", "myapp.com"),
        ("myapp.com/", "myapp.com"),
        ("myapp.com/shop", "myapp.com"),
        ("myapp.com#top", "myapp.com"),
        (" https://myapp.com ", "myapp.com"),
        (" myapp.com\n", "myapp.com"),
        ("*myapp.com", "*.myapp.com"),
        (".myapp.com", "*.myapp.com"),
        ("**.myapp.com", "*.myapp.com"),
        ("https://*.myapp.com", "*.myapp.com"),
        ("http://münchen.de/", "xn--mnchen-3ya.de"),
        ("http://[::1]:3000/", "::1"),
        ("[::1]:3000", "::1"),
        ("127.0.0.1:8000", "127.0.0.1"),
    ],
)
def test_what_is_nearly_a_domain_is_refused_with_the_domain_it_means(value: str, meant: str) -> None:
    """The suggestion is itself a rule."""
    with pytest.raises(ValueError, match="a host such as") as caught:
        domain_rule(value)
    assert str(caught.value).endswith(f"did you mean {meant!r}?")
    assert domain_rule(meant) == meant


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "myapp..com",
        "myapp.com..",
        "my app.com",
        "myapp.com\x00",
        "-myapp.com",
        "myapp-.com",
        "a.*.com",
        "*.*.com",
        "www.*",
        "*.com",
        "*.localhost",
        "*.",
        "*.192.168.1.5",
        "*.[::1]",
        "*.::1",
        "user@myapp.com",
        "https://myapp.com@evil.com/",
        "myapp.com\\evil.com",
        "myapp.com%2eevil.com",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "1.2.3.0x4",
        "010.0.0.1",
        "256.0.0.1",
        "1.2.3.4.5",
        "example.123",
        "[::1",
        "::1]",
        "[]",
        "[1.2.3.4]",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "☃\u200d.net",
        "☃ä\u200d.net",
        "my\u200dapp.com",
        "\ud800.com",
        "a" * 64 + ".com",
        "ä" * 60 + ".com",
        ("a" * 49 + ".") * 5 + "comm",
        "a." * 127 + "a",
    ],
)
def test_what_is_no_domain_is_refused(value: str) -> None:
    """Every spelling that browsers and this project could read as different hosts."""
    with pytest.raises(ValueError, match=r"a host such as 'myapp\.com'") as caught:
        domain_rule(value)
    assert "did you mean" not in str(caught.value)


def test_a_lone_star_is_refused_with_what_to_do() -> None:
    """Every site is what a picture without the option allows."""
    with pytest.raises(ValueError, match=r"omit allowed_domains to allow every site$"):
        domain_rule("*")


@given(value=st.text(max_size=300) | st.text("*.[]:/@%-axn0127é。", max_size=40))
def test_any_text_is_a_stable_rule_or_a_value_error(value: str) -> None:
    """A rule is ASCII, at most 255 characters, and its own canonical form."""
    try:
        rule = domain_rule(value)
    except ValueError:
        return
    assert rule.isascii()
    assert len(rule) <= 255
    assert domain_rule(rule) == rule


@given(rule=st.from_regex(r"\A([a-z][a-z0-9]{0,8}\.){1,3}[a-z]{2,6}\Z"))
def test_case_dot_and_width_do_not_change_a_domain(rule: str) -> None:
    """All spellings of one host are one rule."""
    wide = "".join(chr(ord(letter) + 0xFEE0) if letter != "." else "。" for letter in rule)
    assert {domain_rule(text) for text in (rule, rule.upper(), f"{rule}.", wide)} == {rule}


@pytest.mark.parametrize("part", ["ü", "a.", "a", "//", "[", "*", "ü.", "*."])
def test_a_huge_domain_is_refused_at_once(part: str) -> None:
    """The time grows about as the text does, not with its square."""

    def read(value: str) -> None:
        with suppress(ValueError):
            domain_rule(value)

    with pytest.raises(ValueError, match="a host such as"):
        domain_rule(part * 300)
    short, long, huge = (quickest(lambda: read(part * count)) for count in (10, 300, 30_000))  # noqa: B023
    assert long < 50 * short
    assert huge < 300 * long


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MYAPP.COM.", "myapp.com"),
        ("[::FFFF:102:304]", "1.2.3.4"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("::1", None),
        ("münchen.de", None),
        ("myapp.com\n", None),
        ("[::1].", None),
        ("", None),
    ],
)
def test_a_host_of_a_url_has_one_form_or_none(text: str, name: str | None) -> None:
    """In URLs IPv6 addresses come in brackets and names in ASCII."""
    assert host_name(text) == name


# Networks


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("192.168.1.5", "192.168.1.5/32"),
        ("192.168.1.0/24", "192.168.1.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("128.0.0.0/1", "128.0.0.0/1"),
        ("0.0.0.0", "0.0.0.0/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:DB8:0:0::1", "2001:db8::1/128"),
        ("::1", "::1/128"),
        ("::ffff:192.168.1.0/120", "192.168.1.0/24"),
        ("::ffff:192.168.1.5", "192.168.1.5/32"),
        ("::ffff:c0a8:105", "192.168.1.5/32"),
    ],
)
def test_a_network_has_one_form(value: str, rule: str) -> None:
    """CIDR, and IPv4 inside IPv6 is IPv4."""
    assert network_rule(value) == rule


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("192.168.1.5/24", "192.168.1.0/24"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::ffff:192.168.1.5/120", "192.168.1.0/24"),
        ("192.168.1.0/255.255.255.0", "192.168.1.0/24"),
        ("192.168.1.0/0.0.0.255", "192.168.1.0/24"),
        ("010.0.0.1", "10.0.0.1/32"),
        ("192.168.001.000/24", "192.168.1.0/24"),
        ("10.0.0.0/08", "10.0.0.0/8"),
        ("fe80::1%eth0", "fe80::1/128"),
        ("fe80::%eth0/64", "fe80::/64"),
        (" 192.168.1.5 ", "192.168.1.5/32"),
        ("192.168.1.5\n", "192.168.1.5/32"),
    ],
)
def test_what_is_nearly_a_network_is_refused_with_the_network_it_means(value: str, meant: str) -> None:
    """Row 53; the suggestion is itself a rule."""
    with pytest.raises(ValueError, match="an address such as") as caught:
        network_rule(value)
    assert str(caught.value).endswith(f"did you mean {meant!r}?")
    assert network_rule(meant) == meant


@pytest.mark.parametrize(
    "value", ["0.0.0.0/0", "::/0", "0/0", "1.2.3.4/0", "0.0.0.0/00", "0.0.0.0/0.0.0.0", "::ffff:0:0/96"]
)
def test_the_network_of_everybody_is_refused_with_what_to_do(value: str) -> None:
    """Row 54: whoever means everybody leaves the option away."""
    with pytest.raises(ValueError, match=r"omit ip_whitelist to allow every address$"):
        network_rule(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "/",
        "1.2.3.4/",
        "/24",
        "1.2.3.4/33",
        "2001:db8::/129",
        "1.2.3.4/-1",
        "1.2.3.4/+8",
        "1.2.3.4/8/8",
        "1.2.3.0/255.0.255.0",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.*",
        "1.2.3.4-1.2.3.9",
        "1.2.3.4:80",
        "[::1]",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "１.2.3.4",
        "1.2.3.4/２4",
        "localhost",
        ":::",
        "\ud800",
    ],
)
def test_what_is_no_network_is_refused(value: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"an address such as 192\.168\.1\.5") as caught:
        network_rule(value)
    assert "did you mean" not in str(caught.value)


@given(value=st.text(max_size=60) | st.text("0123456789abcdef.:/%", max_size=45))
def test_any_text_is_a_stable_network_or_a_value_error(value: str) -> None:
    """A rule is its own canonical form, and never everybody."""
    try:
        rule = network_rule(value)
    except ValueError:
        return
    assert network_rule(rule) == rule
    assert ip_network(rule).prefixlen > 0


@given(address=st.ip_addresses(), length=st.integers(1, 128))
def test_a_network_holds_the_addresses_it_was_written_for(
    address: IPv4Address | IPv6Address, length: int
) -> None:
    """For every address and prefix length: the rule is the network around the viewer's address."""
    network = ip_network((address, min(length, address.max_prefixlen)), strict=False)
    assume(unmapped(address) == address or length > 96)
    assert unmapped(address) in ip_network(network_rule(network.with_prefixlen))


# Wishes for caches


@pytest.mark.parametrize(
    "wish",
    [
        "no-store",
        "no-cache",
        "private",
        "must-revalidate",
        "no-transform",
        "max-age=0",
        "Private, No-Cache, max-age=0, must-revalidate",
    ],
)
def test_a_restricted_picture_takes_wishes_that_only_tighten(wish: str) -> None:
    """What is checked on each use is never fresh."""
    check_cache_wish(wish, restricted=True, signed=False)
    check_cache_wish(wish, restricted=True, signed=True)
    check_cache_wish(wish, restricted=False, signed=True)


_LOOSENING = [
    "public",
    "PUBLIC",
    "s-maxage=10",
    "s-maxage=0",
    "stale-while-revalidate=1",
    "stale-if-error=1",
    "immutable",
    "x-vendor",
    "x-vendor=1",
    'no-cache="set-cookie"',
    'private="x"',
    "no-store=1",
    "no-cache, public",
    "private, max-age=0, immutable",
]


@pytest.mark.parametrize(
    "wish", [*_LOOSENING, "proxy-revalidate", "max-age=1", "max-age", 'max-age="0"', "max-age=00"]
)
def test_a_restricted_picture_takes_no_wish_that_loosens(wish: str) -> None:
    """The sentence names the directive, what is allowed and what to do."""
    with pytest.raises(ValueError, match=r"ip_whitelist or allowed_domains only .*max-age=0; remove '.+'"):
        check_cache_wish(wish, restricted=True, signed=False)


@pytest.mark.parametrize("wish", _LOOSENING)
def test_a_signed_picture_takes_no_wish_that_loosens(wish: str) -> None:
    """Shared caches and stale answers would outlive the signature."""
    with pytest.raises(ValueError, match=r"with a signed URL only .*max-age; remove '.+'"):
        check_cache_wish(wish, restricted=False, signed=True)


@pytest.mark.parametrize(
    "wish", ["max-age=60", "max-age=99999999", "private, max-age=60", "proxy-revalidate"]
)
def test_a_signed_picture_takes_any_age(wish: str) -> None:
    """It is lowered when the picture is sent."""
    check_cache_wish(wish, restricted=False, signed=True)


@pytest.mark.parametrize(("wish", "seen"), [("no-cache, public", "public"), ("s-maxage=10", "s-maxage=10")])
def test_the_directive_at_fault_is_named_as_it_was_written(wish: str, seen: str) -> None:
    """Only that one, with its argument."""
    with pytest.raises(ValueError, match=f"remove '{seen}', or omit cache_control$"):
        check_cache_wish(wish, restricted=False, signed=True)


@pytest.mark.parametrize("wish", _LOOSENING)
def test_a_public_picture_takes_any_wish(wish: str) -> None:
    """There is nobody to keep it from."""
    check_cache_wish(wish, restricted=False, signed=False)


def test_directives_are_read_with_quotes_and_without_case() -> None:
    """A comma inside quotes does not end a directive."""
    found = list(directives('Public, private="a, max-age=9" ,MAX-AGE=60'))
    assert found == [("public", None), ("private", '"a, max-age=9"'), ("max-age", "60")]
