"""Files are signed with Content Credentials, which the library's own reader finds valid."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.app import create_app
from blossom_async.gateway.making.credentials import Credentials
from blossom_async.gateway.making.finishing import finished
from blossom_async.gateway.making.metadata import TRAINED
from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.settings import Settings
from blossom_async.models import CONTENT_TYPES, FORMATS, ImageRequest
from blossom_async.scenery import paint
from tests.conftest import running_gateway

PIXELS = paint("a lake", width=96, height=64, seed=1)
_USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
_MORE_USES = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")

Key = CertificateIssuerPrivateKeyTypes


def certificate(key: Key, name: str, signer: Key, issuer: str, *, days: int, ca: bool = False) -> bytes:
    named = [
        x509.NameAttribute(NameOID.COMMON_NAME, name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x"),
    ]
    by = [x509.NameAttribute(NameOID.COMMON_NAME, issuer), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x")]
    uses = dict.fromkeys((*_USES, *_MORE_USES), False) | {
        "key_cert_sign" if ca else "digital_signature": True
    }
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(named))
        .issuer_name(x509.Name(by))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.KeyUsage(**uses), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def operators(folder: Path, *, key: Key | None = None, days: int = 9) -> tuple[Path, Path]:
    """A certificate with the authority that issued it, and its key."""
    root, leaf = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(exist_ok=True)
    chain = certificate(leaf, "operator", root, "root", days=days)
    chain += certificate(root, "root", root, "root", days=days, ca=True)
    (folder / "cert.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def file(file_format: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, {"jpg": "JPEG"}.get(file_format, file_format))
    return out.getvalue()


def read(data: bytes, file_format: str) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """What the library says of a file: its state, its manifest, and all of it."""
    with c2pa.Reader(CONTENT_TYPES[file_format], io.BytesIO(data)) as reader:
        return reader.get_validation_state(), reader.get_active_manifest(), json.loads(reader.json())


def source(manifest: dict[str, Any]) -> str:
    (actions,) = [each["data"]["actions"] for each in manifest["assertions"] if "actions" in each["label"]]
    return str(actions[-1]["digitalSourceType"]).rpartition("/")[2]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_signed_file_says_where_it_comes_from(file_format: str, tmp_path: Path) -> None:
    """In a manifest that is valid, whose pixels are the same, and which a changed byte breaks."""
    given = file(file_format)
    data = Credentials(*operators(tmp_path)).signed(given, file_format, source=TRAINED)
    state, manifest, _ = read(data, file_format)
    assert (state, source(manifest)) == ("Valid", "trainedAlgorithmicMedia")
    assert manifest["signature_info"]["common_name"] == "operator"
    before, after = (np.asarray(Image.open(io.BytesIO(each))) for each in (given, data))
    assert np.array_equal(before, after)
    place = data.rindex(given[-60:-40]) + 10  # among the pixels
    assert read(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], file_format)[0] == "Invalid"


def test_the_providers_manifest_is_an_ingredient(tmp_path: Path) -> None:
    """It is in the file as the provider signed it, also where the pixels were converted."""
    provider = Credentials(*operators(tmp_path / "provider"))
    ours = Credentials(*operators(tmp_path / "ours", key=rsa.generate_private_key(65537, 2048)))
    parent = provider.signed(file("png"), "png", source=TRAINED)
    for file_format in ("png", "webp"):
        state, manifest, found = read(
            ours.signed(file(file_format), file_format, source=TRAINED, parent=parent), file_format
        )
        assert (state, source(manifest)) == ("Valid", "trainedAlgorithmicMedia")
        (ingredient,) = manifest["ingredients"]
        assert ingredient["relationship"] == "parentOf"
        assert ingredient["active_manifest"] == read(parent, "png")[2]["active_manifest"]
        assert len(found["manifests"]) == 2


async def test_every_picture_is_signed(tmp_path: Path) -> None:
    """As it is fetched; the offline renderer's as what it is, and each file of ``auto``."""
    cert, key = operators(tmp_path / "keys")
    async with running_gateway(tmp_path / "data", c2pa_cert=cert, c2pa_key=key) as gateway:
        async with gateway.client() as client:
            for file_format in (*FORMATS, "auto"):
                info = await client.image.generate_url_with_info(
                    "a lake", width=64, height=64, format=file_format
                )
                assert info.provenance == "signed_c2pa"
                async with aiohttp.request("GET", info.url) as response:
                    data, kind = await response.read(), response.content_type
                state, manifest, _ = read(data, {v: k for k, v in CONTENT_TYPES.items()}[kind])
                assert (state, source(manifest)) == ("Valid", "algorithmicMedia")
                assert b"digitalsourcetype/algorithmicMedia" in data


@pytest.mark.parametrize("file_format", ["png", "avif"])
def test_a_delivered_picture_is_signed_with_its_makers_manifest(file_format: str, tmp_path: Path) -> None:
    """In place of being kept byte for byte; its coded pixels are kept."""
    maker = Credentials(*operators(tmp_path / "provider"))
    parent = maker.signed(file(file_format), file_format, source=TRAINED)
    given = Delivery(
        data=parent, format=file_format, width=96, height=64, model="m", request_id=None, usd=None,
        cached=False, notes="p m",
    )  # fmt: skip
    request = ImageRequest("x", width=96, height=64, format=file_format)
    ((stored, data),) = finished(given, request, "p").files.items()
    assert (data, stored.provenance) == (parent, "provider_c2pa")
    assert read(data, file_format)[0] == "Valid"
    ours = Credentials(*operators(tmp_path / "ours"))
    for keep, manifests in ((True, 2), (False, 1)):
        ((stored, data),) = finished(given, request, "p", keep_manifests=keep, credentials=ours).files.items()
        state, _, found = read(data, file_format)
        assert (state, stored.provenance, len(found["manifests"])) == ("Valid", "signed_c2pa", manifests)


@pytest.mark.parametrize("name", ["c2pa_cert", "c2pa_key", "c2pa_timestamp_url"])
async def test_half_of_what_is_needed_is_refused(name: str, tmp_path: Path) -> None:
    """Before the gateway starts."""
    given = {name: "http://127.0.0.1:9" if name.endswith("url") else tmp_path / "x"}
    with pytest.raises(ConfigurationError, match="one is not set; set both, or neither"):
        create_app(Settings(data_dir=tmp_path, **given), public_url="http://x")  # type: ignore[arg-type]


def test_what_cannot_sign_is_refused(tmp_path: Path) -> None:
    """When the gateway starts, with the reason and what is needed."""
    cert, key = operators(tmp_path / "one")
    other_cert, other_key = operators(tmp_path / "two")
    (tmp_path / "words").write_text("none")
    old = operators(tmp_path / "old", days=-1)
    for wrong, said in (
        ((cert, other_key), "c2pa_cert and c2pa_key cannot sign: .*allowed: "),
        ((other_cert, tmp_path / "words"), "c2pa_cert and c2pa_key cannot sign: .*allowed: "),
        ((tmp_path / "words", key), "c2pa_cert and c2pa_key cannot sign: .*allowed: "),
        (old, "c2pa_cert and c2pa_key cannot sign: .*allowed: "),
        ((tmp_path / "none", key), "c2pa_cert: .*none cannot be read"),
        ((cert, tmp_path), "c2pa_key: .* cannot be read"),
    ):
        with pytest.raises(ConfigurationError, match=said) as caught:
            Credentials(*wrong)
        assert "PRIVATE" not in str(caught.value)


def test_without_a_timestamp_a_picture_is_signed_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was paid for; the log says that the authority did not answer."""
    credentials = Credentials(*operators(tmp_path), timestamp_url="http://127.0.0.1:9/")
    data = credentials.signed(file("jpg"), "jpg", source=TRAINED)
    assert read(data, "jpg")[0] == "Valid"
    assert "signed without a timestamp" in caplog.text
