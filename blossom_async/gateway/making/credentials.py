"""Content Credentials (C2PA): files signed in the operator's name. CPU-bound: run it in a thread."""

from __future__ import annotations

import io
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.making.metadata import ALGORITHMIC, SOURCES
from blossom_async.models import CONTENT_TYPES

__all__ = ["Credentials"]

_ALGORITHMS = ("ES256", "ES384", "ES512", "PS256", "ED25519")  # C2PA 2.2, 13.2.1; the key tells which
_OFFLINE = {
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_SOUND = {"Valid", "Trusted"}
_log = logging.getLogger("blossom_async.gateway")


class Credentials:
    """A certificate and its key. ``timestamp_url`` is a timestamp authority's (RFC 3161); None: no network.

    ``certificate`` is a PEM file with the signer's certificate first, then those that it is issued by, and
    ``key`` one with the private key (PKCS#8). Raises ``ConfigurationError`` if c2pa-python is not installed,
    and unless a trial signature with them is valid.
    """

    def __init__(self, certificate: Path, key: Path, *, timestamp_url: str | None = None) -> None:
        try:
            import c2pa
        except ImportError as exc:
            raise ConfigurationError(
                "c2pa_cert is set, and c2pa-python is not installed; pip install '.[c2pa]' in the checkout, "
                "or unset c2pa_cert and c2pa_key"
            ) from exc
        self._c2pa: Any = c2pa
        self._certificate = _read("c2pa_cert", certificate)
        self._key = _read("c2pa_key", key)
        self._timestamp_url = timestamp_url
        self._context = c2pa.Context(c2pa.Settings.from_dict(_OFFLINE))
        self._algorithm = self._working_algorithm()

    def signed(self, data: bytes, file_format: str, *, source: str, parent: bytes | None = None) -> bytes:
        """The file with a manifest that says where it comes from: ``source`` is one of IPTC's names.

        ``parent`` is the provider's file, whose own manifest becomes this one's ingredient. If the timestamp
        authority does not answer, the signature has no timestamp, and the log says so.
        """
        if self._timestamp_url is not None:
            try:
                return self._sign(data, file_format, source, parent, self._timestamp_url)
            except self._c2pa.C2paError as exc:
                _log.warning("a picture is signed without a timestamp: %s", exc)
        return self._sign(data, file_format, source, parent, None)

    def _sign(
        self,
        data: bytes,
        file_format: str,
        source: str,
        parent: bytes | None,
        timestamp_url: str | None,
        algorithm: str | None = None,
    ) -> bytes:
        c2pa, kind = self._c2pa, CONTENT_TYPES[file_format]
        info = c2pa.C2paSignerInfo(
            getattr(c2pa.C2paSigningAlg, algorithm or self._algorithm),
            self._certificate,
            self._key,
            timestamp_url,
        )
        origin = {"digitalSourceType": SOURCES + source}
        manifest: dict[str, Any] = {
            "claim_generator_info": [{"name": "blossom_async", "version": version("blossom-async")}],
            "title": "picture",
            "format": kind,
        }
        if parent is None:
            actions = {"actions": [{"action": "c2pa.created", **origin}]}
            manifest["assertions"] = [{"label": "c2pa.actions", "data": actions}]
        out = io.BytesIO()
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest), self._context) as builder,
        ):
            if parent is not None:
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                told = json.dumps({"title": "as the provider sent it", "relationship": "parentOf"})
                builder.add_ingredient(told, _kind_of(parent), io.BytesIO(parent))
                builder.add_action(json.dumps({"action": "c2pa.edited", **origin}))
            builder.sign(signer, kind, io.BytesIO(data), out)
        return out.getvalue()

    def _working_algorithm(self) -> str:
        trial = io.BytesIO()
        Image.new("RGB", (16, 16)).save(trial, "PNG")
        why = ""
        for algorithm in _ALGORITHMS:
            try:
                signed = self._sign(trial.getvalue(), "png", ALGORITHMIC, None, None, algorithm)
                with self._c2pa.Reader("image/png", io.BytesIO(signed), context=self._context) as reader:
                    if reader.get_validation_state() in _SOUND:
                        return algorithm
                    results = reader.get_validation_results() or {}
            except self._c2pa.C2paError as exc:
                why = why or str(exc)
            else:
                failures = results.get("activeManifest", {}).get("failure", [])
                codes = {each["code"] for each in failures} - {"signingCredential.untrusted"}
                why = f"the signature is not valid ({', '.join(sorted(codes))})"
        raise ConfigurationError(
            f"c2pa_cert and c2pa_key cannot sign: {why}; allowed: in c2pa_cert the signer's certificate in "
            "PEM before those that it is issued by, not expired, for signing documents or e-mail; in "
            "c2pa_key its private key in PEM (PKCS#8; EC, RSA or Ed25519)"
        )


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(
            f"{name}: {path} cannot be read ({exc.strerror}); name a PEM file that this process may read"
        ) from exc


def _kind_of(data: bytes) -> str:
    return Image.open(io.BytesIO(data)).get_format_mimetype() or ""
