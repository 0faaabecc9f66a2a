"""``/docs``: the calls of the gateway as a page, from the document that programs read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import orjson
from aiohttp import web

from blossom_async.gateway.dashboard.rendering import HEADERS, render

__all__ = ["Docs", "in_words"]

_ENDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
)


@attrs.frozen(kw_only=True)
class _Operation:
    method: str
    path: str
    summary: str
    description: str
    parameters: tuple[tuple[str, str, str], ...]  # name, where it goes, and what it may be
    body: str | None
    example: str | None
    answers: tuple[tuple[str, str, str], ...]  # status, what it means, and what is in it


class Docs:
    """The page of the OpenAPI document. It is public, as the document is."""

    def __init__(self, document: Callable[[], Mapping[str, Any]], *, base: str) -> None:
        self._document = document
        self._base = base

    def routes(self) -> list[web.RouteDef]:
        """The routes to add to the application."""
        return [web.get("/docs", self.read)]

    async def read(self, _: web.Request) -> web.Response:
        """200 with the page."""
        text = await asyncio.to_thread(self._page)
        return web.Response(text=text, content_type="text/html", headers=HEADERS)

    def _page(self) -> str:
        document = self._document()
        groups: dict[str, list[_Operation]] = {tag["name"]: [] for tag in document["tags"]}
        for path, methods in document["paths"].items():
            for method, told in methods.items():
                groups[told["tags"][0]].append(_operation(method.upper(), path, told))
        schemas = {
            name: [
                (field, in_words(known), known.get("description", ""), field in schema.get("required", ()))
                for field, known in schema["properties"].items()
            ]
            for name, schema in document["components"]["schemas"].items()
        }
        server = document["servers"][0]["url"]
        shown = {"info": document["info"], "tags": document["tags"], "groups": groups, "schemas": schemas}
        return render("docs.html", datetime.now(UTC), base=self._base, server=server, **shown)


def in_words(
    schema: Mapping[str, Any], *, named: Callable[[str], str] = str, value: Callable[[str], str] = str
) -> str:
    """What a schema allows, in a few words, without its description.

    ``named`` writes the name of a schema of the document, ``value`` an allowed value in JSON.
    """
    if "$ref" in schema:
        return named(str(schema["$ref"]).rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(in_words(each, named=named, value=value) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(value(orjson.dumps(each).decode()) for each in values)
    kinds = schema.get("type", "")
    said = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if "items" in schema:
        said += f" of {in_words(schema['items'], named=named, value=value)}"
    for low, high, unit in _ENDS:
        if high in schema:
            said += f", {schema.get(low, 0):,} to {schema[high]:,}{unit}"
        elif low in schema:
            said += f", at least {schema[low]:,}{unit}"
    return said


def _operation(method: str, path: str, told: Mapping[str, Any]) -> _Operation:
    body = told.get("requestBody", {}).get("content", {}).get("application/json")
    example = None if body is None else body.get("example")
    return _Operation(
        method=method,
        path=path,
        summary=told["summary"],
        description=told.get("description", ""),
        parameters=tuple(
            (each["name"], "required" if each.get("required") else each["in"], in_words(each["schema"]))
            for each in told["parameters"]
        ),
        body=None if body is None else in_words(body["schema"]),
        example=None if example is None else orjson.dumps(example).decode(),
        answers=tuple(
            (status, answer["description"], " or ".join(_contents(answer)))
            for status, answer in sorted(told["responses"].items())
        ),
    )


def _contents(answer: Mapping[str, Any]) -> list[str]:
    return [in_words(each["schema"]) or media for media, each in answer.get("content", {}).items()]
