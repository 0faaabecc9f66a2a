"""``/openapi.json``: a valid document, and a gateway that does what it says, whatever it is sent."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

from blossom_async.errors import InvalidRequest
from blossom_async.gateway.calls.api import Api
from blossom_async.gateway.calls.openapi import document
from blossom_async.models import ExplainRequest, ImageRequest, SignRequest, checked
from tests.conftest import KEY, running_gateway

CASES = os.environ.get("BLOSSOM_TEST_FUZZ", "")
"""How many new cases for each operation; without it the same few every time."""

CONFIG = """\
[parameters]
"path.id" = "{kept}"
"query.tracking_id" = "spring"

[[operations]]
include-method = "DELETE"
parameters = {{ "path.id" = "{lost}" }}

[[operations]]
include-path-regex = "/v1/images/(generations|edits)"
phases.coverage.enabled = false
checks.allow_header_conformance.enabled = false
"""
"""Pictures to find, so that the calls get further than 404; one of them to be deleted.

Without the coverage of OpenAI's options, which are ours beside theirs: it would take as long as all others.
The path could be a picture's, too, whose methods its ``Allow`` lists.
"""

ROUTES = Api.__new__(Api).routes()  # of any gateway: they do not depend on what it is made of
DOCUMENT = document(ROUTES, "http://x")
SCHEMAS = DOCUMENT["components"]["schemas"]
REQUESTS = {ImageRequest: {"prompt": "a lake"}, SignRequest: {}, ExplainRequest: {"url": "/image/x"}}


def test_it_is_valid() -> None:
    """By the rules of OpenAPI 3.1."""
    # Imported here, as every process that collects the tests would load it.
    from openapi_spec_validator import validate

    validate(DOCUMENT)


def test_every_call_is_in_it() -> None:
    """A handler that is added to ``/v1`` is added here, with a sentence that says what it does."""
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert operation["summary"].endswith("."), route
        assert operation["operationId"] == route.handler.__name__


async def test_anybody_may_read_it(tmp_path: Path) -> None:
    """It says where this gateway is, and holds no secret."""
    async with running_gateway(tmp_path / "data") as there, aiohttp.ClientSession() as http:
        async with http.get(f"{there.base_url}/openapi.json") as answer:
            found = await answer.json()
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert found["servers"] == [{"url": there.base_url}]
    assert {**found, "servers": DOCUMENT["servers"]} == DOCUMENT


TOGETHER = {"lossy_quality": {"format": "jpg"}}
"""What else must be asked for, so that an option makes sense."""


def accepted(kind: Any, name: str, value: object) -> bool:
    try:
        checked({**REQUESTS[kind], **TOGETHER.get(name, {}), name: value}, kind)
    except InvalidRequest as exc:
        assert exc.field == name  # noqa: PT017 - only what this field refuses counts
        return False
    return True


def limits(key: str) -> list[object]:
    """Fields of requests whose schema has the keyword."""
    return [
        pytest.param(kind, name, schema[key], id=f"{kind.__name__}.{name}")
        for kind in REQUESTS
        for name, schema in SCHEMAS[kind.__name__]["properties"].items()
        if key in schema
    ]


class TestLimits:
    """The document's limits are those of the validators, no narrower and no wider."""

    @pytest.mark.parametrize(("kind", "name", "least"), limits("minimum"))
    def test_least(self, kind: type, name: str, least: int) -> None:
        """The least number passes and the one below does not."""
        assert (accepted(kind, name, least), accepted(kind, name, least - 1)) == (True, False)

    @pytest.mark.parametrize(("kind", "name", "most"), limits("maximum"))
    def test_most(self, kind: type, name: str, most: int) -> None:
        """The greatest number passes and the one above does not."""
        assert (accepted(kind, name, most), accepted(kind, name, most + 1)) == (True, False)

    @pytest.mark.parametrize(
        ("kind", "name", "most"),
        [limit for limit in limits("maxLength") if limit.values[1] not in {"cache_control", "address"}],  # type: ignore[attr-defined]
    )
    def test_longest(self, kind: type, name: str, most: int) -> None:
        """A text of that length passes, a longer or an empty one does not."""
        assert [accepted(kind, name, "x" * length) for length in (0, 1, most, most + 1)] == [
            False,
            True,
            True,
            False,
        ]

    @pytest.mark.parametrize(("kind", "name", "options"), limits("enum"))
    def test_options(self, kind: type, name: str, options: list[object]) -> None:
        """Each passes; another word does not."""
        assert all(accepted(kind, name, option) for option in options)
        assert not accepted(kind, name, "another")

    @pytest.mark.parametrize(("kind", "name", "most"), limits("maxItems"))
    def test_most_items(self, kind: type, name: str, most: int) -> None:
        """A list of that many passes, a longer or an empty one does not."""
        rule = "10.0.0.{}" if name == "ip_whitelist" else "a{}.example.com"
        items = [number + 16 if name == "widths" else rule.format(number) for number in range(most + 1)]
        assert [accepted(kind, name, items[:count]) for count in (0, 1, most, most + 1)] == [
            False,
            True,
            True,
            False,
        ]

    def test_metadata(self) -> None:
        """So many pairs, keys and values of so many characters."""
        schema = SCHEMAS["ImageRequest"]["properties"]["metadata"]
        pairs = {str(number): "" for number in range(schema["maxProperties"])}
        key = "k" * schema["propertyNames"]["maxLength"]
        value = "v" * schema["additionalProperties"]["maxLength"]
        assert checked({"prompt": "x", "metadata": pairs}, ImageRequest)
        assert checked({"prompt": "x", "metadata": {key: value}}, ImageRequest)
        for metadata in ({**pairs, "one more": ""}, {key + "k": value}, {key: value + "v"}):
            with pytest.raises(InvalidRequest):
                checked({"prompt": "x", "metadata": metadata}, ImageRequest)

    @pytest.mark.parametrize("kind", REQUESTS)
    def test_fields_and_what_is_needed(self, kind: type) -> None:
        """Every field of the class, and nothing else; those without a default are required."""
        schema = SCHEMAS[kind.__name__]
        assert list(schema["properties"]) == [field.name for field in attrs.fields(kind)]
        assert schema["additionalProperties"] is False
        assert set(schema.get("required", ())) == set(REQUESTS[kind])

    @pytest.mark.parametrize(("kind", "name", "types"), limits("type"))
    def test_null(self, kind: type, name: str, types: str | list[str]) -> None:
        """A field that may be null in the document may be None in the request, and no other."""
        assert accepted(kind, name, None) is ("null" in types)


@pytest.mark.campaign
async def test_a_gateway_does_what_it_says(tmp_path: Path) -> None:
    """Fed with requests from the document and near it: no failure, no answer that is not documented."""
    async with (
        running_gateway(tmp_path / "data", failed_key_limit="1000000/s") as there,
        there.client() as client,
    ):
        options = {"width": 32, "height": 32, "tracking_id": "spring"}
        kept, lost = [
            await client.image.generate_url_with_info("a lake", **options)  # type: ignore[arg-type]
            for _ in range(2)
        ]
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.format(kept=kept.id, lost=lost.id))
        fuzzing = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("st")),
            *("--config-file", str(config), "run", f"{there.base_url}/openapi.json"),
            *("--header", f"Authorization: Bearer {KEY}", "--checks", "all"),
            # Not every rule can be written in a schema, such as that jpg has no transparency.
            *("--exclude-checks", "positive_data_acceptance"),
            *(("--max-examples", CASES) if CASES else ("--max-examples", "5", "--seed", "1")),
            *("--warnings", "off", "--no-color"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        said, _ = await fuzzing.communicate()
    assert fuzzing.returncode == 0, said.decode()
    assert f"Tested: {sum(map(len, DOCUMENT['paths'].values()))}" in said.decode()
