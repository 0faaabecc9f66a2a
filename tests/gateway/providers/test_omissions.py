"""A parameter that a server refuses is left out, if nothing was charged and the picture stays the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blossom_async.errors import ConfigurationError, InvalidRequest
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.providers.omissions import Omissions, refused_names
from blossom_async.gateway.providers.openai import OpenAI
from blossom_async.gateway.providers.wire import provider_session
from blossom_async.models import ImageRequest
from blossom_async.testing import FakeOpenAI
from blossom_async.testing.exchange import Answer, Order, Refused, SeenRequest

REQUEST = ImageRequest("a red fox", width=256, height=192)


def openai_style(name: str) -> Answer:
    error = {"message": f"Unknown parameter: '{name}'.", "type": "invalid_request_error", "param": name}
    return Answer.json(400, {"error": error | {"code": "unknown_parameter"}})


class Picky(FakeOpenAI):
    """The fake server, refusing what it does not know one after the other."""

    def __init__(self, *unknown: str, refusal: Callable[[str], Answer] = openai_style) -> None:
        super().__init__()
        self._unknown = unknown
        self._told = refusal

    def _read(self, seen: SeenRequest) -> Order:
        for name in self._unknown:
            if name in seen.body:
                raise Refused(self._told(name))
        return super()._read(seen)

    @property
    def sent(self) -> list[set[str]]:
        """The names of what came with each request, but for those that always come."""
        return [set(seen.body) - {"model", "prompt"} for seen in self.requests]


@asynccontextmanager
async def provider(server: FakeOpenAI, model: str = "generic-1", **options: Any) -> AsyncIterator[OpenAI]:
    async with provider_session() as session:
        yield OpenAI(session, session, base_url=server.base_url, model=model, **options)


STYLES: dict[str, Callable[[str], Answer]] = {
    "OpenAI": openai_style,
    "OpenAI, older": lambda name: Answer.json(
        400, {"error": {"message": f"Unrecognized request argument supplied: {name}", "param": None}}
    ),
    "LiteLLM": lambda name: Answer.json(
        400, {"error": {"message": f"UnsupportedParamsError: m does not support parameters: ['{name}']"}}
    ),
    "xAI": lambda name: Answer.json(400, {"code": "400", "error": f"Argument not supported: {name}"}),
    "FastAPI": lambda name: Answer.json(
        422,
        {"detail": [{"type": "extra", "loc": ["body", name], "msg": "Extra inputs are not allowed"}]},
    ),
    "Go": lambda name: Answer.json(400, {"message": f'json: unknown field "{name}"'}),
    "JSON Schema": lambda name: Answer.json(
        400, {"detail": f"Additional properties are not allowed ('{name}' was unexpected)"}
    ),
    "Python": lambda name: Answer.json(400, {"error": f"got an unexpected keyword argument '{name}'"}),
    "a path": lambda name: Answer.json(400, {"errors": [{"field": f"body.{name}", "message": "unknown"}]}),
}


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
async def test_what_a_server_refuses_by_name_is_left_out_and_not_sent_again(
    style: Callable[[str], Answer],
) -> None:
    """However it says so; the picture is paid once, and the next request is right at once."""
    async with Picky("response_format", "seed", "size", refusal=style) as server, provider(server) as asked:
        for seed in (7, 8):
            await asked.generate(ImageRequest("x", width=1024, height=768), seed, key=f"k{seed}")
        assert len(server.ledger.charges) == 2
        everything = {"response_format", "seed", "size"}
        assert server.sent == [everything, {"seed", "size"}, {"size"}, set(), set()]


async def test_a_seed_that_was_left_out_is_noted() -> None:
    """As of models that take none."""
    async with Picky("seed") as server, provider(server) as asked:
        delivery = await asked.generate(REQUEST, 7, key="k")
    assert delivery.notes == "openai generic-1; takes no seed"


async def test_without_a_size_the_picture_that_comes_is_judged_by_the_one_wanted() -> None:
    """What can be cut to it is good; what cannot be is paid for and refused, as always."""
    async with Picky("size") as server, provider(server) as asked:
        assert (await asked.generate(ImageRequest("x", width=800, height=600), 7, key="k")).width == 1024
        with pytest.raises(ProviderFault, match="asked for 2064x2064") as caught:
            await asked.generate(ImageRequest("x", width=2064, height=2064), 7, key="k2")
    assert (caught.value.kind, caught.value.charged) == (Kind.BAD_CONTENT, "yes")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("quality", {"quality": "hd"}), ("negative_prompt", {"negative_prompt": "people"})],
)
async def test_what_no_picture_shows_is_refused_instead(name: str, wanted: dict[str, Any]) -> None:
    """And before anything is sent from the second time on."""
    request = ImageRequest("x", width=256, height=192, **wanted)
    async with Picky(name) as server, provider(server) as asked:
        asked.check(request)
        with pytest.raises(ProviderFault, match=name) as caught:
            await asked.generate(request, 7, key="k")
        assert (caught.value.kind, caught.value.charged) == (Kind.REJECTED, "no")
        with pytest.raises(InvalidRequest, match=f"takes no {name}") as early:
            asked.check(request)
        with pytest.raises(ProviderFault, match=f"takes no {name}"):
            await asked.generate(request, 7, key="k")  # which was checked before the first came back
        assert early.value.field == name
        assert len(server.requests) == 1
        await asked.generate(REQUEST, 7, key="k")


async def test_standard_quality_needs_no_parameter() -> None:
    """Servers that give OpenAI's models away under rules of their own."""
    async with Picky("quality", "output_format") as server, provider(server, "gpt-image-2") as asked:
        await asked.generate(REQUEST, 7, key="k")
        with pytest.raises(InvalidRequest, match="takes no quality"):
            asked.check(ImageRequest("x", quality="hd"))


async def test_a_value_that_is_refused_is_refused_of_that_value_only() -> None:
    """Another size may be one of the server's."""
    async with Sizes() as sizes, provider(sizes) as asked:
        for width in (1000, 512, 1000):
            await asked.generate(ImageRequest("x", width=width, height=width), 7, key=f"k{width}")
    assert [seen.body.get("size") for seen in sizes.requests] == ["1000x1000", None, "512x512", None]


class Sizes(FakeOpenAI):
    """The fake server, with two sizes."""

    def _read(self, seen: SeenRequest) -> Order:
        if seen.body.get("size", "512x512") not in {"512x512", "1024x1024"}:
            message = "Invalid value: supported values are '512x512' and '1024x1024'."
            raise Refused(Answer.json(400, {"error": {"message": message, "param": "size"}}))
        return super()._read(seen)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_only_a_refusal_that_cost_nothing_is_answered_with_less(status: int) -> None:
    """Everything else means what it always means."""
    told = {"error": {"message": "Unknown parameter: 'seed'.", "param": "seed"}}
    async with (
        Picky("seed", refusal=lambda _: Answer.json(status, told)) as server,
        provider(server) as asked,
    ):
        with pytest.raises(ProviderFault):
            await asked.generate(REQUEST, 7, key="k")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": "The model `m` does not exist.", "param": "model", "code": "model_not_found"}},
        {"error": {"message": "Your prompt is unsupported.", "param": "prompt"}},
        {"detail": "quality time"},
        {"error": {"message": "Unknown parameter: 'strength'.", "param": "strength"}},
        [],
        None,
        {"error": [[[[[[["seed"]]]]]]]},
    ],
)
def test_what_names_nothing_of_this_changes_nothing(told: object) -> None:
    """The refusal stands."""
    assert refused_names(told, {"model", "prompt", "seed", "size", "quality"}) == {}


async def test_what_a_setting_names_is_never_sent() -> None:
    """And what cannot be had without it is refused before anything is sent."""
    omit = ("response_format", "seed", "quality", "model")
    async with FakeOpenAI() as server, provider(server, omit=omit) as asked:
        await asked.generate(REQUEST, 7, key="k")
        assert set(server.requests[0].body) == {"prompt", "size"}
        with pytest.raises(InvalidRequest, match="takes no quality"):
            asked.check(ImageRequest("x", quality="hd"))


def test_a_name_that_cannot_be_left_out_is_refused() -> None:
    """A misspelt one would have no effect."""
    with pytest.raises(ConfigurationError, match=r"'sed' cannot be left out .* Did you mean 'seed'"):
        Omissions(["seed", "sed"])
    with pytest.raises(ConfigurationError, match="'prompt' cannot be left out"):
        Omissions(["prompt"])


def test_the_memory_of_refusals_is_bounded() -> None:
    """The oldest goes first."""
    omissions = Omissions()
    for number in range(1500):
        omissions.remember("m", {"size": f"{number}x1"}, {"size": False})
    assert omissions.names("m", {"size": "1499x1"}) == {"size"}
    assert omissions.names("m", {"size": "1x1"}) == set()
