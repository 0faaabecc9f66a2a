"""Signed URLs: only exactly the signed URL is accepted, and only until it expires."""

import ast
import base64
import itertools
import random
import string
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from blossom_async.errors import ConfigurationError, Gone, InvalidRequest, PermissionDenied, ResponseError
from blossom_async.gateway.serving import signing
from blossom_async.gateway.serving.signing import MAX_TTL_S, Signer, bad_signature, encode, expiry, parse
from tests.thorough import thoroughly

NOW = datetime(2026, 11, 22, 14, 0, 30, tzinfo=UTC)
EXP = 1_795_359_630  # an hour after NOW
PATH = "/image/0123456789abcdefABCDEF"
ACCESS_ID = "k3yOfSomeone"
OLD = "the-old-secret-of-the-tests-0123456789"
NEW = "the-new-secret-of-the-tests-9876543210"
SIGNER = Signer([NEW, OLD])
QUERY = SIGNER.sign(PATH, ACCESS_ID, EXP)
SIG = QUERY.partition("&sig=")[2]
BASE64URL = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"

secrets = st.text(min_size=32, max_size=80).filter(lambda secret: len(set(secret)) >= 10)
access_ids = st.text(string.ascii_letters + string.digits, min_size=12, max_size=12)
paths = st.text().map("/image/{}".format)
exps = st.integers(EXP - 3000, EXP + 3000)


def verify(path: str, query: str, now: datetime = NOW, signer: Signer = SIGNER) -> str:
    """What a request for a picture with ``require_signature`` goes through."""
    signature = parse(query)
    if signature is None:
        raise bad_signature()
    return signer.verify(path, signature, now)


def outcome(path: str, query: str, now: datetime = NOW, signer: Signer = SIGNER) -> str:
    """``accepted``, or status and code of the refusal. Any other error is the test's failure."""
    try:
        verify(path, query, now, signer)
    except ResponseError as exc:
        return f"{exc.status} {exc.code}"
    return "accepted"


def some_urls(count: int, seed: int) -> list[tuple[str, str]]:
    """Paths and the queries they are signed with, all different, all valid at ``NOW``."""
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    letters = string.ascii_letters + string.digits
    urls = []
    for _ in range(count):
        image_id = "".join(rng.choices(letters, k=22))
        path = rng.choice([f"/image/{image_id}", f"/generated/{image_id}.png"])
        access_id = "".join(rng.choices(letters, k=12))
        urls.append((path, SIGNER.sign(path, access_id, EXP + rng.randrange(MAX_TTL_S - 3600))))
    return urls


def with_mac(query: str, mac: str) -> str:
    return f"{query[:-43]}{mac}"


# What is signed


@given(secret=secrets, path=paths, access_id=access_ids, exp=exps)
def test_what_was_signed_is_accepted_and_names_the_access_key(
    secret: str, path: str, access_id: str, exp: int
) -> None:
    """Signing and verifying are inverse for every secret, path, access key and end that lies ahead."""
    signer = Signer([secret])
    assert verify(path, signer.sign(path, access_id, exp), NOW, signer) == access_id


def test_a_url_given_out_today_works_with_the_next_release() -> None:
    """The form and the derivation of keys are fixed: this URL was signed once and for all."""
    assert QUERY == ("exp=1795359630&sig=uIEyk3yOfSomeone.nAedKwAblGTN-GLvTQtJAS7X0DSz17slg1B4R7YuUAI")


def test_the_query_is_exp_then_sig() -> None:
    """`exp={unix seconds}&sig={4 characters of the secret}{12 of the access id}.{43 of the MAC}`."""
    exp, sig = QUERY.split("&")
    assert exp == f"exp={EXP}"
    assert sig[:4] == "sig="
    assert sig[8:21] == f"{ACCESS_ID}."
    assert len(sig) == 4 + 4 + 12 + 1 + 43


def test_either_order_of_the_parameters_is_accepted() -> None:
    """Row 6."""
    assert verify(PATH, f"sig={SIG}&exp={EXP}") == ACCESS_ID


@pytest.mark.parametrize(
    ("access_id", "exp"),
    [
        ("", EXP),
        ("elevenchars", EXP),
        ("thirteenchars", EXP),
        ("with-a-dash1", EXP),
        ("twelvechars\n", EXP),
        ("ключпоключуу", EXP),
        (ACCESS_ID, 0),
        (ACCESS_ID, -EXP),
        (ACCESS_ID, 999_999_999),
        (ACCESS_ID, 100_000_000_000),
    ],
)
def test_what_could_not_be_verified_is_not_signed(access_id: str, exp: int) -> None:
    """An access id or end that no signed URL can have is an error where it is signed."""
    with pytest.raises(ValueError, match="cannot be signed"):
        SIGNER.sign(PATH, access_id, exp)


@given(one=st.lists(st.text()), other=st.lists(st.text()))
@example(one=["a1", "23"], other=["a", "123"])
@example(one=["ab"], other=["a", "b"])
@example(one=["a"], other=["a", ""])
@example(one=[], other=[""])
@example(one=["\ud83d\ude00"], other=["\U0001f600"])
@example(one=["\ud83d"], other=["?"])
def test_no_two_lists_of_fields_encode_alike(one: list[str], other: list[str]) -> None:
    """Row 22: no boundary between fields can be moved."""
    assume(one != other)
    assert encode(*one) != encode(*other)


@given(fields=st.lists(st.text()), at=st.integers(0), to=st.integers(0))
def test_moving_a_boundary_between_fields_changes_the_bytes(fields: list[str], at: int, to: int) -> None:
    """Row 22, for lists that hold the same text: the case chance does not find."""
    assume(fields)
    text = "".join(fields)
    first, second = at % (len(text) + 1), to % (len(text) + 1)
    halves = [text[:first], text[first:]]
    others = [text[:second], text[second:]]
    assert (encode(*halves) == encode(*others)) is (first == second)
    assert encode(*halves) != encode(text)


# What the query may be


@pytest.mark.parametrize(
    "query",
    ["", "&", "=", "?", "fbclid=IwAR0", "utm_source=mail&utm_medium=email", "v=2", "v", "a;b", "width=9999",
     "next=https%3A%2F%2Fmyapp.com%2F%3Fexp%3D1%26sig%3D2", "expires=1", "signature=x", "\x00", "é"],
)  # fmt: skip
def test_a_query_without_exp_and_sig_is_no_signature(query: str) -> None:
    """What others append to a plain URL means nothing to the gateway."""
    assert parse(query) is None


@pytest.mark.parametrize("appended", ["fbclid=IwAR0_x-1", "utm_source=a%20b&utm_medium=a+b", "gclid=x.y~z"])
@pytest.mark.parametrize("order", [0, 1])
def test_a_click_identifier_beside_a_signature_is_ignored(appended: str, order: int) -> None:
    """Social networks and mailers append theirs to every link, signed ones too."""
    query = "&".join([QUERY, appended][:: 1 - 2 * order])
    assert outcome(PATH, query) == "accepted"
    assert outcome(PATH, with_mac(QUERY, "A" * 43) + f"&{appended}") == "403 bad_signature"
    assert outcome(PATH, f"exp={EXP}&{appended}") == "400 malformed_query"


@pytest.mark.parametrize("twice", [f"exp={EXP}", f"sig={SIG}", "exp=1", "sig=bad"])
def test_a_click_identifier_hides_no_repeated_parameter(twice: str) -> None:
    """Row 7: `exp` and `sig` stand once, whatever stands between them."""
    assert outcome(PATH, f"{QUERY}&fbclid=x&{twice}") == "400 malformed_query"


@pytest.mark.parametrize(
    "exp",
    [
        "",
        "0",
        "-1",
        "1e9",
        "1_795_359_630",
        "+1795359630",
        " 1795359630",
        "1795359630 ",
        "1795359630\n",
        "1795359630%0a",
        "%31795359630",
        "１７９５３５９６３０",
        "١٧٩٥٣٥٩٦٣٠",
        "1795359630.0",
        "01795359630",
        "0x6b02a14e",
        "179535963",
        "179535963000",
        "9" * 30,
        "9" * 5000,
        "nan",
        "1795359630;",
        "1795359630=",
    ],
)
@pytest.mark.parametrize("order", [0, 1])
def test_another_spelling_of_exp_is_malformed(exp: str, order: int) -> None:
    """Row 4: 10 or 11 ASCII digits without a leading zero; never an error of the server."""
    query = "&".join([f"exp={exp}", f"sig={SIG}"][:: 1 - 2 * order])
    assert outcome(PATH, query) == "400 malformed_query"


@given(exp=st.text())
def test_only_the_very_digits_signed_are_accepted(exp: str) -> None:
    """Rows 2 and 4: any other text is malformed, any other number is not signed."""
    assume(exp != str(EXP))
    assert outcome(PATH, f"exp={exp}&sig={SIG}") in ("400 malformed_query", "403 bad_signature")


@pytest.mark.parametrize(
    "query",
    [
        f"exp={EXP}",
        f"sig={SIG}",
        "exp&sig",
        f"exp={EXP}&sig",
        f"{QUERY}&sig={SIG}",
        f"{QUERY}&sig=bad",
        f"sig=bad&{QUERY}",
        f"{QUERY}&exp={EXP}",
        f"{QUERY}&exp=1",
        f"exp=1&{QUERY}",
        f"exp={EXP}&exp={EXP}",
        f"sig={SIG}&sig={SIG}",
        f"{QUERY}&{QUERY}",
        f"{QUERY}&width=9999",
        f"{QUERY}&utm=1",
        f"utm=1&{QUERY}",
        f"exp={EXP}&utm=1&sig={SIG}",
        f"{QUERY}&",
        f"&{QUERY}",
        f"exp={EXP}&&sig={SIG}",
        f"exp={EXP};sig={SIG}",
        f"sig={SIG};exp={EXP}",
        f"{QUERY};x=1",
        f"{QUERY};",
        f"?{QUERY}",
        f"{QUERY}?",
        f"{QUERY}?{QUERY}",
        f"exp={EXP}&%73ig={SIG}",
        f"%65xp={EXP}&sig={SIG}",
        f"Exp={EXP}&sig={SIG}",
        f"exp={EXP}&SIG={SIG}",
        f"exp={EXP}&ѕig={SIG}",
        f"exp ={EXP}&sig={SIG}",
        f"exp={EXP}& sig={SIG}",
        f"exp[]={EXP}&sig={SIG}",
        f"exp%3d{EXP}%26sig%3d{SIG}",
        f"+{QUERY}",
        f"fbclid=x&exp={EXP}",
        f"{QUERY}&fbclid",
        f"{QUERY}&fbclid=a;b",
        f"{QUERY}&fbclid=a=b",
        f"{QUERY}&Fbclid=x",
    ],
)
def test_another_query_with_exp_or_sig_is_malformed(query: str) -> None:
    """Rows 7 to 10: two parameters, these names, each once, `&` between them, nothing encoded."""
    assert outcome(PATH, query) == "400 malformed_query"


def test_percent_encoding_any_byte_is_malformed() -> None:
    """Row 10: a cache and the gateway must see one and the same query."""
    for at, char in enumerate(QUERY):
        for form in (f"%{ord(char):02x}", f"%{ord(char):02X}", f"%25{ord(char):02x}"):
            assert outcome(PATH, QUERY[:at] + form + QUERY[at + 1 :]) == "400 malformed_query"


@given(name=st.text(), value=st.text(), at=st.integers(0, 2))
def test_any_further_parameter_is_malformed(name: str, value: str, at: int) -> None:
    """Row 8: nothing unsigned rides along."""
    pieces = QUERY.split("&")
    pieces.insert(at, f"{name}={value}")
    assert outcome(PATH, "&".join(pieces)) == "400 malformed_query"


@given(query=st.text(min_size=1))
def test_no_text_is_more_than_refused(query: str) -> None:
    """Any text is answered with a refusal, never with an error of the server."""
    assert outcome(PATH, query) in ("400 malformed_query", "403 bad_signature")


# Signatures that do not hold


@pytest.mark.parametrize(
    "sig",
    [
        "",
        "A",
        SIG[:-1],
        SIG[1:],
        f"{SIG}A",
        f"{SIG}=",
        f"{SIG}==",
        f"{SIG}!!",
        f"{SIG}\n",
        f" {SIG}",
        f"{SIG}+",
        SIG.replace(".", ""),
        SIG.replace(".", ".."),
        SIG.replace(".", "/"),
        SIG.replace(".", ".=", 1)[:-1],
        f"{SIG[:-1]}/",
        f"{SIG[:-1]}+",
        f"{SIG[:-1]}é",
        f"{SIG[:-1]}\udce9",
        f"{SIG[:-1]}Ａ",
        f"{SIG[:17]}{'é' * 43}",
        "é",
        "." * 60,
        SIG.swapcase(),
        SIG.lower(),
        SIG[17:],
        f"{SIG[:17]}{SIG[17:]}{SIG[17:]}",
        "A" * 1_000_000,
    ],
)
def test_another_spelling_of_the_signature_does_not_hold(sig: str) -> None:
    """Rows 13 to 15: padding, `+/`, other alphabets, other lengths; all get the answer of a wrong one."""
    assert outcome(PATH, f"exp={EXP}&sig={sig}") == "403 bad_signature"


def test_the_alphabet_of_plain_base64_does_not_hold() -> None:
    """Row 13: `+` and `/` for `-` and `_`, in URLs that have one of these."""
    translated = [
        (path, with_mac(q, q[-43:].translate(str.maketrans("-_", "+/")))) for path, q in some_urls(200, 1)
    ]
    changed = [(path, query) for path, query in translated if "+" in query or "/" in query]
    assert len(changed) > 50
    assert {outcome(path, query) for path, query in changed} == {"403 bad_signature"}


@given(length=st.integers(0, 65_536), char=st.sampled_from(BASE64URL + ".=~"))
def test_a_signature_of_any_length_but_the_right_one_does_not_hold(length: int, char: str) -> None:
    """Row 15."""
    assert outcome(PATH, f"exp={EXP}&sig={char * length}") == "403 bad_signature"


@given(sig=st.text(st.characters(exclude_characters="%;?&")))
def test_no_text_is_a_signature(sig: str) -> None:
    """Whatever stands for the signature, the answer is the same."""
    assume(sig != SIG)
    assert outcome(PATH, f"exp={EXP}&sig={sig}") == "403 bad_signature"


@pytest.mark.parametrize("number", thoroughly(100, 1000))
def test_one_of_the_64_last_characters_is_accepted(number: int) -> None:
    """Row 13: four of them decode to the same bytes; the canonical one alone holds."""
    for path, query in some_urls(number, 2):
        held = [last for last in BASE64URL if outcome(path, query[:-1] + last) == "accepted"]
        assert held == [query[-1]]


@pytest.mark.campaign
def test_no_flipped_bit_is_accepted() -> None:
    """Row 16: each of the 256 bits of 1,000 MACs."""
    outcomes: Counter[str] = Counter()
    for path, query in some_urls(1000, 3):
        mac = int.from_bytes(base64.urlsafe_b64decode(f"{query[-43:]}="), "big")
        for bit in range(256):
            flipped = (mac ^ 1 << bit).to_bytes(32, "big")
            forged = base64.urlsafe_b64encode(flipped).rstrip(b"=").decode()
            outcomes[outcome(path, with_mac(query, forged))] += 1
    assert outcomes == {"403 bad_signature": 256_000}


@given(path=st.text())
@example(path=PATH.upper())
@example(path=f"{PATH}/")
@example(path=f"{PATH}\x00")
@example(path=PATH.replace("0", "%30"))
@example(path=PATH.replace("0", "０"))
@example(path="")
def test_a_signature_holds_for_no_other_path(path: str) -> None:
    """Only the path that was signed, letter for letter."""
    assume(path != PATH)
    assert outcome(path, QUERY) == "403 bad_signature"


def test_digits_do_not_pass_from_the_end_to_the_path() -> None:
    """Row 22: the same characters with the boundary elsewhere are signed as something else."""
    longer = SIGNER.sign(PATH, ACCESS_ID, int(f"1{EXP}"))
    assert outcome(f"{PATH}1", longer.replace(f"exp=1{EXP}", f"exp={EXP}")) == "403 bad_signature"


def test_a_signature_of_one_endpoint_does_not_hold_at_another() -> None:
    """Row 23."""
    image_id = "0123456789abcdefABCDEF"
    names = [image_id, *(f"{image_id}.{extension}" for extension in ("png", "jpg", "webp"))]
    endpoints = [f"/{folder}/{name}" for folder in ("image", "generated") for name in names]
    for signed, asked in itertools.product(endpoints, repeat=2):
        held = outcome(asked, SIGNER.sign(signed, ACCESS_ID, EXP)) == "accepted"
        assert held is (signed == asked)


@given(exp=st.integers(1_000_000_000, 99_999_999_999))
def test_a_signature_holds_for_no_other_end(exp: int) -> None:
    """Row 2: neither longer nor shorter, and a past end is not told from a wrong one."""
    assume(exp != EXP)
    assert outcome(PATH, f"exp={exp}&sig={SIG}") == "403 bad_signature"


def test_a_signature_of_one_access_key_does_not_hold_as_another_s() -> None:
    """Row 19: all pairs of 20 keys."""
    keys = [f"accesskey{number:03}" for number in range(20)]
    for signed_by, claimed in itertools.permutations(keys, 2):
        query = SIGNER.sign(PATH, signed_by, EXP).replace(signed_by, claimed)
        assert outcome(PATH, query) == "403 bad_signature"


def test_a_signature_of_one_secret_does_not_hold_as_another_s() -> None:
    """Row 19: the MAC of each of two secrets under the name of the other."""
    old = Signer([OLD]).sign(PATH, ACCESS_ID, EXP)
    assert outcome(PATH, old) == outcome(PATH, QUERY) == "accepted"
    assert outcome(PATH, with_mac(old, QUERY[-43:])) == "403 bad_signature"
    assert outcome(PATH, with_mac(QUERY, old[-43:])) == "403 bad_signature"


@pytest.mark.parametrize("twin", [f"{NEW}\0", f"{NEW}\0\0", f"{NEW} ", f"{NEW}\n", f"{NEW}{NEW}"])
def test_a_secret_and_its_padded_twin_are_two(twin: str) -> None:
    """Row 21: to HMAC alone, `k` and `k` with a NUL at its end are the same key."""
    mine, other = Signer([NEW]), Signer([twin])
    theirs = other.sign(PATH, ACCESS_ID, EXP)
    assert theirs[-43:] != QUERY[-43:]
    assert outcome(PATH, with_mac(QUERY, theirs[-43:]), signer=mine) == "403 bad_signature"
    assert Signer([NEW, twin]).sign(PATH, ACCESS_ID, EXP) == QUERY


def test_every_signature_that_does_not_hold_gets_the_same_answer() -> None:
    """Nobody learns which part was wrong: the text is one constant, whatever was sent."""
    queries = [
        f"exp={EXP}&sig=",
        f"exp={EXP}&sig=é",
        QUERY[:-1] + ("A" if QUERY[-1] != "A" else "B"),
        QUERY.replace(ACCESS_ID, "anotherkey00"),
        QUERY.replace(SIG[:4], "zzzz"),
        QUERY.replace(str(EXP), "1000000000"),
        SIGNER.sign(PATH, ACCESS_ID, 99_999_999_999),
    ]
    texts = set()
    for query in queries:
        with pytest.raises(PermissionDenied) as caught:
            verify(PATH, query)
        texts.add((caught.value.status, caught.value.code, str(caught.value)))
    denied = bad_signature()
    assert texts == {(403, "bad_signature", str(denied))}
    assert SIG not in str(denied)


# A million forgeries


def _flipped(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    mac = bytearray(base64.urlsafe_b64decode(f"{query[-43:]}="))
    mac[rng.randrange(32)] ^= 1 << rng.randrange(8)
    return path, with_mac(query, base64.urlsafe_b64encode(mac).rstrip(b"=").decode())


def _random_mac(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    mac = base64.urlsafe_b64encode(rng.randbytes(32)).rstrip(b"=").decode()
    return path, with_mac(query, mac)


def _replaced(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    at = rng.randrange(len(query))
    new = chr(rng.randrange(32, 127))
    return path, query[:at] + (new if new != query[at] else "é") + query[at + 1 :]


def _removed(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    at = rng.randrange(len(query))
    return path, query[:at] + query[at + 1 :]


def _inserted(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    at = rng.randrange(len(query) + 1)
    return path, query[:at] + chr(rng.choice((0, 10, 32, 38, 43, 59, 61, 65, 95, 233, 0xDCE9))) + query[at:]


def _swapped(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    one, other = sorted(rng.sample(range(len(query)), 2))
    if query[one] == query[other]:
        return path, query[:one] + query[other]
    return path, query[:one] + query[other] + query[one + 1 : other] + query[one] + query[other + 1 :]


def _cut(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    return path, query[: rng.randrange(1, len(query))]


def _last(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    return path, query[:-1] + BASE64URL[(BASE64URL.index(query[-1]) + rng.randrange(1, 64)) % 64]


def _later(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    return path, f"exp={int(query[4:14]) + rng.randrange(1, 10_000_000)}{query[14:]}"


def _earlier(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    return path, f"exp={int(query[4:14]) - rng.randrange(1, 100_000_000)}{query[14:]}"


def _other_picture(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    at = rng.randrange(7, 23)
    return path[:at] + ("x" if path[at] != "x" else "y") + path[at + 1 :], query


def _other_endpoint(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    if path.startswith("/image/"):
        return f"/generated/{path[7:]}.{rng.choice(('png', 'jpg', 'webp'))}", query
    return f"/image/{path[11:33]}", query


def _other_key(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    at = rng.randrange(19, 35)  # in the secret id or the access id
    return path, query[:at] + ("x" if query[at] != "x" else "y") + query[at + 1 :]


def _twice(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    return path, f"{query}&{rng.choice(query.split('&'))}"


def _encoded(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    at = rng.randrange(len(query))
    return path, f"{query[:at]}%{ord(query[at]):02X}{query[at + 1 :]}"


def _other_secret(rng: random.Random, path: str, query: str) -> tuple[str, str]:
    forger = FORGERS[rng.randrange(len(FORGERS))]
    forged = forger.sign(path, query[23:35], int(query[4:14]))
    return path, with_mac(query, forged[-43:])


FORGERS = [Signer([secret]) for secret in (OLD, NEW[:-1], f"{NEW}\0", NEW.upper(), NEW[::-1])]
DENIED, MALFORMED = "403 bad_signature", "400 malformed_query"
FORGERIES: dict[Callable[[random.Random, str, str], tuple[str, str]], set[str]] = {
    _flipped: {DENIED},
    _random_mac: {DENIED},
    _replaced: {DENIED, MALFORMED},
    _removed: {DENIED, MALFORMED},
    _inserted: {DENIED, MALFORMED},
    _swapped: {DENIED, MALFORMED},
    _cut: {DENIED, MALFORMED},
    _last: {DENIED},
    _later: {DENIED},
    _earlier: {DENIED},
    _other_picture: {DENIED},
    _other_endpoint: {DENIED},
    _other_key: {DENIED},
    _twice: {MALFORMED},
    _encoded: {MALFORMED},
    _other_secret: {DENIED},
}


@pytest.mark.campaign
def test_none_of_a_million_forgeries_is_accepted() -> None:
    """The originals hold; 62,500 of each of 16 kinds of forgery do not, each refused as its kind is."""
    rng = random.Random(4)  # noqa: S311 - the same forgeries in every run
    urls = some_urls(1000, 5)
    assert Counter(outcome(path, query) for path, query in urls) == {"accepted": 1000}
    tried = 0
    for forge, expected in FORGERIES.items():
        outcomes = Counter(outcome(*forge(rng, *urls[number % 1000])) for number in range(62_500))
        assert set(outcomes) == expected, forge.__name__
        tried += outcomes.total()
    assert tried == 1_000_000


# How long a signature holds


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (timedelta(seconds=-1), "accepted"),
        (timedelta(microseconds=-1), "accepted"),
        (timedelta(0), "410 signature_expired"),
        (timedelta(microseconds=1), "410 signature_expired"),
        (timedelta(seconds=1), "410 signature_expired"),
        (timedelta(days=36_500), "410 signature_expired"),
    ],
)
def test_a_signature_ends_exactly_at_exp(late: timedelta, expected: str) -> None:
    """Rows 3 and 26: the boundary is `now >= exp`, and no clock gets any tolerance."""
    assert outcome(PATH, QUERY, datetime.fromtimestamp(EXP, UTC) + late) == expected


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(days=1)])
def test_a_signature_survives_a_clock_that_jumps_and_comes_back(jump: timedelta) -> None:
    """It holds whenever the clock stands before its end; what was signed ahead of time ends at its own."""
    end = datetime.fromtimestamp(EXP, UTC)
    for moment, expected in ((NOW, "accepted"), (NOW + jump, "410 signature_expired"), (NOW, "accepted")):
        assert outcome(PATH, QUERY, moment) == expected
    assert outcome(PATH, QUERY, NOW - jump) == "accepted"
    assert outcome(PATH, QUERY, end - jump) == "accepted"
    signed_ahead = SIGNER.sign(PATH, ACCESS_ID, expiry(NOW + jump, 3600, stable=False))
    assert outcome(PATH, signed_ahead, NOW) == "accepted"
    assert outcome(PATH, signed_ahead, NOW + jump + timedelta(hours=1)) == "410 signature_expired"


def test_what_was_signed_and_has_ended_is_gone_and_says_when() -> None:
    """Row 3: 410 with the end, for people."""
    with pytest.raises(Gone, match=r"expired at 2026-11-22T15:00:30\+00:00; ask"):
        verify(PATH, QUERY, NOW + timedelta(hours=2))


def test_an_unsigned_url_does_not_learn_that_it_has_ended() -> None:
    """403 before 410: without the right MAC there is nothing to be gone."""
    later = NOW + timedelta(hours=2)
    assert outcome(PATH, QUERY[:-2] + "AA", later) == "403 bad_signature"
    assert outcome("/image/another", QUERY, later) == "403 bad_signature"


@pytest.mark.parametrize(
    ("ahead_s", "expected"),
    [
        (MAX_TTL_S, "accepted"),
        (MAX_TTL_S + 3600 + 900, "accepted"),
        (MAX_TTL_S + 3600 + 901, "403 bad_signature"),
        (10 * 365 * 86_400, "403 bad_signature"),
    ],
)
def test_a_signature_that_would_hold_for_too_long_does_not_hold(ahead_s: int, expected: str) -> None:
    """Row 5: even signed by the gateway itself, no URL lives for more than 7 days and a small rest."""
    exp = int(NOW.timestamp()) + ahead_s
    assert outcome(PATH, SIGNER.sign(PATH, ACCESS_ID, exp)) == expected


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    ttl_s=st.integers(1, MAX_TTL_S),
    stable=st.booleans(),
    skew_s=st.integers(-900, 900),
)
@example(now=NOW, ttl_s=MAX_TTL_S, stable=True, skew_s=-900)
@example(now=NOW, ttl_s=90, stable=True, skew_s=0)  # ends on a multiple of the window as it is
@example(now=NOW + timedelta(microseconds=1), ttl_s=1, stable=False, skew_s=0)
def test_a_signed_url_lives_for_what_was_asked(now: datetime, ttl_s: int, stable: bool, skew_s: int) -> None:
    """It holds for `ttl_s` by the signer's clock, at every checker whose clock is within 15 minutes."""
    exp = expiry(now, ttl_s, stable=stable)
    window_s = min(max(60, ttl_s // 2), 3600) if stable else 1
    assert ttl_s <= exp - now.timestamp() < ttl_s + window_s
    query = SIGNER.sign(PATH, ACCESS_ID, exp)
    checked = now + timedelta(seconds=skew_s)
    assert outcome(PATH, query, checked) == (
        "accepted" if checked.timestamp() < exp else "410 signature_expired"
    )


@pytest.mark.parametrize(
    ("ttl_s", "window_s"),
    [(1, 60), (119, 60), (120, 60), (600, 300), (3600, 1800), (7200, 3600), (MAX_TTL_S, 3600)],
)
def test_stable_urls_made_within_one_window_are_the_same(ttl_s: int, window_s: int) -> None:
    """Asked for every second over ten windows, each URL comes for one window without a gap."""
    ends = [expiry(NOW + timedelta(seconds=s), ttl_s, stable=True) for s in range(10 * window_s)]
    assert ends == sorted(ends)
    counts = list(Counter(ends).values())
    assert len(counts) in (10, 11)
    assert set(counts[1:-1]) == {window_s}
    assert SIGNER.sign(PATH, ACCESS_ID, ends[0]) == SIGNER.sign(PATH, ACCESS_ID, ends[0])


@pytest.mark.parametrize("ttl_s", [0, -1, MAX_TTL_S + 1, 10**30, True, 3600.0, "3600", None])
def test_a_lifetime_out_of_range_is_refused(ttl_s: object) -> None:
    """From one second to seven days, as a whole number."""
    with pytest.raises(InvalidRequest, match=r"signature_ttl: .* from 1 to 604800") as caught:
        expiry(NOW, ttl_s, stable=False)  # type: ignore[arg-type]
    assert caught.value.field == "signature_ttl"


# Secrets


def test_the_newest_secret_signs_and_each_verifies() -> None:
    """Row 25: during a rotation the URLs of both secrets work."""
    old = Signer([OLD]).sign(PATH, ACCESS_ID, EXP)
    assert outcome(PATH, old) == "accepted"
    assert QUERY == Signer([NEW]).sign(PATH, ACCESS_ID, EXP) != old


def test_a_secret_taken_out_ends_its_urls() -> None:
    """Row 25: with the old secret gone, its URLs are as good as forged; the others go on."""
    rotated = Signer([NEW])
    old = Signer([OLD]).sign(PATH, ACCESS_ID, EXP)
    assert outcome(PATH, old, signer=rotated) == "403 bad_signature"
    assert outcome(PATH, QUERY, signer=rotated) == "accepted"


def test_two_secrets_of_the_same_id_both_verify() -> None:
    """24 bits name a secret and may name two; the one that fits is found."""
    seen: dict[str, str] = {}
    for number in itertools.count():
        secret = f"abcdefghijklmnopqrstuvwxyz-{number:06}"
        secret_id = Signer([secret]).sign(PATH, ACCESS_ID, EXP)[19:23]
        if secret_id in seen:
            break
        seen[secret_id] = secret
    twin = seen[secret_id]
    queries = [Signer([each]).sign(PATH, ACCESS_ID, EXP) for each in (secret, twin)]
    assert queries[0][:35] == queries[1][:35]
    for signer in (Signer([secret, twin]), Signer([twin, secret])):
        assert [outcome(PATH, query, signer=signer) for query in queries] == ["accepted", "accepted"]
    assert [outcome(PATH, query, signer=Signer([twin])) for query in queries] == [
        "403 bad_signature",
        "accepted",
    ]


@pytest.mark.parametrize(
    ("given_secrets", "seen"),
    [
        ([], "no signing secret is set"),
        ([""], "signing secret 1 of 1 has 0 characters"),
        ([NEW, "Zq8-short-and-recognisable-Xw7."], "signing secret 2 of 2 has 31 characters"),
        (["abcdefghi" * 10], "signing secret 1 of 1 has 90 characters, 9 of them distinct"),
        (["x" * 64], "1 of them distinct"),
        ([NEW, OLD, NEW], "a signing secret is given twice"),
        (NEW, "has 1 characters"),
    ],
)
def test_a_weak_secret_is_refused_and_not_shown(given_secrets: list[str], seen: str) -> None:
    """At the start, with what is allowed and how to make one."""
    with pytest.raises(ConfigurationError) as caught:
        Signer(given_secrets)
    message = str(caught.value)
    assert message.startswith(seen) or seen in message
    assert "at least 32 characters, 10 of them distinct" in message
    assert message.endswith("make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'")
    assert not any(secret in message for secret in given_secrets if len(secret) > 1)


@pytest.mark.parametrize(
    "secret",
    [
        "abcdefghij" * 4,
        "abcdefghijklmnopqrstuvwxyz012345",
        "ключ-от-всех-замков-очень-длинный",
        f"{NEW}\udc80",
    ],
)
def test_a_secret_that_is_long_and_varied_enough_is_taken(secret: str) -> None:
    """32 characters and 10 different ones suffice; so does any script, and what an environment holds."""
    signer = Signer([secret])
    assert outcome(PATH, signer.sign(PATH, ACCESS_ID, EXP), signer=signer) == "accepted"


def test_neither_secrets_nor_macs_are_in_a_repr() -> None:
    """Secrets cannot reach a log by way of the objects that hold them, nor can what opens a picture."""
    assert NEW not in repr(SIGNER) + repr(vars(SIGNER))
    assert SIG[17:] not in repr(parse(QUERY))


def test_more_access_keys_than_are_remembered_all_verify() -> None:
    """The memory of derived keys is bounded; what falls out of it is derived again."""
    signer = Signer([NEW])
    queries = {f"{number:012}": signer.sign(PATH, f"{number:012}", EXP) for number in range(3000)}
    assert {verify(PATH, query, signer=signer) for query in queries.values()} == set(queries)


# How it is written


def test_macs_are_compared_in_constant_time_only() -> None:
    """Rows 17 and 18: `hmac.compare_digest` is the one comparison, HMAC the one construction."""
    tree = ast.parse(Path(signing.__file__).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    compared = [op for node in nodes if isinstance(node, ast.Compare) for op in node.ops]
    assert not [op for op in compared if isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn)]
    assert not [node for node in nodes if isinstance(node, ast.Match)]
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    assert "hmac.compare_digest" in called
    assert not {
        name for name in called if name.endswith(("startswith", "endswith", "b64decode", "index", "find"))
    }
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {
        name
        for name in imported
        if name.startswith(("hashlib", "_hashlib", "_sha", "Crypto", "cryptography"))
    }
