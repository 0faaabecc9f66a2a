"""Signed URLs: ``?exp={unix seconds}&sig={secret id}{access id}.{mac}``. Decides only; no I/O.

``secret id`` names one of the gateway's secrets, ``access id`` the access key it was signed under. Neither is
confidential: they say which key to verify with. RFC numbers: 2104 is HMAC, 4648 base64url, 5869 HKDF.
"""

from __future__ import annotations

import base64
import functools
import hmac
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import unquote

import attrs

from blossom_async.errors import ConfigurationError, Gone, InvalidRequest, PermissionDenied, ResponseError

__all__ = ["MAX_TTL_S", "Signature", "Signer", "bad_signature", "encode", "expiry", "parse"]

MAX_TTL_S = 604_800  # 7 days

_MIN_WINDOW_S = 60
_MAX_WINDOW_S = 3600
_CLOCK_AHEAD_S = 900  # how far the clock of the signing gateway may be ahead of the verifying one
_MAX_AHEAD_S = MAX_TTL_S + _MAX_WINDOW_S + _CLOCK_AHEAD_S

_MIN_SECRET = 32  # characters
_MIN_DISTINCT = 10  # characters
_CACHED_KEYS = 1024

_EXP = "[1-9][0-9]{9,10}"
_ACCESS_ID = "[A-Za-z0-9]{12}"
# Nothing is decoded: a signed URL has no percent signs, and "&" is its only separator.
_QUERY = re.compile(rf"exp=({_EXP})&sig=([^%;?&]*)", re.ASCII)
# A name with one of these words, however it is written, shows that a signature was meant.
_SIGNS = re.compile(r"(?<![\w-])(?:exp|sig)(?![\w-])", re.IGNORECASE)
# What social networks, search engines and mailers append to every link that is clicked.
_CLICK_ID = re.compile(
    r"(?:utm_[a-z_]+|fbclid|igsh(?:id)?|[gdy]clid|[gw]braid|gad_source|gad_campaignid|srsltid|msclkid|twclid|"
    r"ttclid|li_fat_id|epik|rdt_cid|ScCid|mc_[ce]id|_hsenc|_hsmi|mkt_tok)=[\w.~%+-]*",
    re.ASCII,
)
_SIG = re.compile(rf"([A-Za-z0-9_-]{{4}})({_ACCESS_ID})\.([A-Za-z0-9_-]{{43}})", re.ASCII)
_SIGNABLE = re.compile(rf"{_EXP} {_ACCESS_ID}", re.ASCII)


@attrs.frozen(kw_only=True)
class Signature:
    """The query of a signed URL, well-formed but not yet verified. Made by ``parse``."""

    exp: int
    secret_id: str
    access_id: str
    mac: str = attrs.field(repr=False)  # it opens the picture


class Signer:
    """Signs with the newest secret and verifies with all. Keeps keys derived from the secrets, not these.

    ``secrets`` has the newest first. A secret added at the front signs from then on; removing one invalidates
    every URL it signed. Raises ``ConfigurationError`` for no secret, a weak one or a repeated one.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        _check_secrets(secrets)
        # HKDF-Extract (5869, 2.2). As HMAC keys, "k" and "k\0" would be one and the same secret.
        roots = [hmac.digest(b"blossom secret v1", encode(secret), "sha256") for secret in secrets]
        self._newest = roots[0]
        self._roots: dict[str, list[bytes]] = {}  # two secrets may share an id of 24 bits
        for root in roots:
            self._roots.setdefault(_secret_id(root), []).append(root)
        self._key = functools.lru_cache(_CACHED_KEYS)(_signing_key)

    def sign(self, path: str, access_id: str, exp: int) -> str:
        """The query that makes ``path`` a signed URL until ``exp`` (unix seconds): ``exp=..&sig=..``.

        ``path`` is the path in the URL, such as ``/image/{id}``; the signature is valid for no other path.
        Raises ``ValueError`` for an invalid ``access_id`` or ``exp``.
        """
        if not _SIGNABLE.fullmatch(f"{exp} {access_id}"):
            raise ValueError(
                f"exp {exp!r} with access id {access_id!r} cannot be signed; allowed: unix seconds of 10 or "
                "11 digits and 12 letters or digits; take exp from expiry() and the id from the access key"
            )
        mac = _mac(self._key(self._newest, access_id), path, exp)
        return f"exp={exp}&sig={_secret_id(self._newest)}{access_id}.{mac.decode()}"

    def verify(self, path: str, signature: Signature, now: datetime) -> str:
        """The id of the access key that signed ``path``, the raw path of the request.

        The caller must check that the key is active and that its holder owns the picture. Raises
        ``PermissionDenied`` (``bad_signature``) if the signature is invalid or expires later than any may,
        and ``Gone`` (``signature_expired``) if it is valid and ``now`` has reached ``exp``.
        """
        presented = signature.mac.encode()
        if not any(
            hmac.compare_digest(presented, _mac(self._key(root, signature.access_id), path, signature.exp))
            for root in self._roots.get(signature.secret_id, ())
        ):
            raise bad_signature()
        left_s = signature.exp - now.timestamp()
        if left_s > _MAX_AHEAD_S:
            raise bad_signature()
        if left_s <= 0:
            ended = datetime.fromtimestamp(signature.exp, UTC).isoformat()
            raise Gone(
                f"This signed URL expired at {ended}; ask whoever gave it to you for a new one.",
                code="signature_expired",
            )
        return signature.access_id


def parse(query: str) -> Signature | None:
    """The signature in a raw query, undecoded and without its question mark; None if there is none.

    A query with ``exp`` or ``sig`` must have both, in either order, each once. Beside them only click
    identifiers such as ``fbclid`` and ``utm_source`` may stand. Raises ``ResponseError`` with status 400
    (``malformed_query``) for any other one, and ``bad_signature()`` for a ``sig`` whose length, alphabet or
    padding ``Signer.sign`` never writes. A query without ``exp`` and ``sig`` means nothing.
    """
    names = [part.partition("=")[0] for part in re.split("[&;?]", query)]
    if not any(_SIGNS.search(unquote(name)) for name in names):
        return None
    # Sorted, so that both orders match. A third parameter leaves an "&" that the pattern does not allow.
    parameters = [part for part in query.split("&") if not _CLICK_ID.fullmatch(part)]
    found = _QUERY.fullmatch("&".join(sorted(parameters)))
    if found is None:
        raise ResponseError(
            "This is not the query of a signed URL; allowed: exp={unix seconds}&sig={signature}, each once "
            "and not encoded. Use the URL exactly as you got it.",
            status=400,
            code="malformed_query",
        )
    parts = _SIG.fullmatch(found[2])
    if parts is None:
        raise bad_signature()
    return Signature(exp=int(found[1]), secret_id=parts[1], access_id=parts[2], mac=parts[3])


def expiry(now: datetime, ttl_s: int, *, stable: bool) -> int:
    """When a URL signed ``now`` expires, in unix seconds: from ``ttl_s`` to less than ``ttl_s`` + 1 ahead.

    With ``stable`` it is rounded up to a multiple of a window: ``ttl_s`` // 2, at least 60 s, at most an
    hour. All URLs for one picture, ``ttl_s`` and access key made within a window are identical, so a browser
    fetches the picture only once. Each is valid for at least ``ttl_s`` and less than ``ttl_s`` plus the
    window. Raises ``InvalidRequest`` (``signature_ttl``).
    """
    if type(ttl_s) is not int or not 1 <= ttl_s <= MAX_TTL_S:
        raise InvalidRequest(
            "signature_ttl", ttl_s, f"a whole number of seconds from 1 to {MAX_TTL_S} (7 days)"
        )
    exp = math.ceil(now.timestamp()) + ttl_s
    if stable:
        window_s = min(max(_MIN_WINDOW_S, ttl_s // 2), _MAX_WINDOW_S)
        exp += -exp % window_s
    return exp


def bad_signature() -> PermissionDenied:
    """The one answer to every invalid signature, and to a missing one."""
    return PermissionDenied(
        "The signature of this URL is invalid; a signed URL works only exactly as it was issued. "
        "Ask whoever gave it to you for a new one.",
        code="bad_signature",
    )


def encode(*fields: str) -> bytes:
    """Each field after its length in 8 bytes: no two lists of fields give the same bytes."""
    # A lone surrogate may come from an environment variable or a request line. It is encoded, not refused:
    # the codec's error would show the secret that contains it.
    raw = [field.encode("utf-8", "surrogatepass") for field in fields]
    return b"".join([len(field).to_bytes(8, "big") + field for field in raw])


def _check_secrets(secrets: Sequence[str]) -> None:
    allowed = (
        f"allowed: one or more, all different, each of at least {_MIN_SECRET} characters, {_MIN_DISTINCT} of "
        "them distinct; make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
    )
    if not secrets:
        raise ConfigurationError(f"no signing secret is set; {allowed}")
    for number, secret in enumerate(secrets, 1):
        if len(secret) < _MIN_SECRET or len(set(secret)) < _MIN_DISTINCT:
            raise ConfigurationError(
                f"signing secret {number} of {len(secrets)} has {len(secret)} characters, {len(set(secret))} "
                f"of them distinct; {allowed}"
            )
    if len(set(secrets)) < len(secrets):
        raise ConfigurationError(f"a signing secret is given twice; {allowed}")


def _secret_id(root: bytes) -> str:
    return base64.urlsafe_b64encode(hmac.digest(root, encode("blossom secret id v1"), "sha256")[:3]).decode()


def _signing_key(root: bytes, access_id: str) -> hmac.HMAC:
    key = hmac.digest(root, encode("blossom signing key v1", access_id), "sha256")
    return hmac.new(key, digestmod="sha256")


def _mac(key: hmac.HMAC, path: str, exp: int) -> bytes:
    """The MAC as written in a URL. It is compared in this form: decoding accepts four spellings of each."""
    mac = key.copy()
    mac.update(encode("blossom url v1", path, str(exp)))
    return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=")
