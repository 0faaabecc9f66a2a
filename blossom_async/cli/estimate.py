"""``blossom batch --dry-run``: estimates what a batch would cost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from blossom_async.cli.options import opened_client
from blossom_async.cli.words import plural, say, stdout_checked

if TYPE_CHECKING:
    from blossom_async.cli.prompts.file import PromptFile
    from blossom_async.models import Estimate, ImageRequest

__all__ = ["estimate"]


def estimate(source: PromptFile, settings: dict[str, Any], given: dict[str, Any]) -> int:
    """Prints the estimate and makes nothing. Returns 1 if a line is unusable, else 0."""
    from blossom_async.cli.loop import run

    return run(_estimated(source, settings, given))


async def _estimated(source: PromptFile, settings: dict[str, Any], given: dict[str, Any]) -> int:
    import attrs

    from blossom_async.models import image_request, to_plain
    from blossom_async.transport import http_session

    kinds: Counter[ImageRequest] = Counter()
    broken = 0
    async for entry in source.entries(given["limit"], say):
        try:
            request = image_request({**settings, **entry})
        except (TypeError, ValueError) as exc:
            broken += 1
            say(f"line {entry.line}: {exc}")
        else:  # what a picture costs does not depend on its words
            plain = attrs.evolve(request, prompt="-", seed=None, metadata={}, tracking_id=None)
            kinds[attrs.evolve(plain, use_custom_cdn=False)] += 1
    lines: list[tuple[int, Estimate]] = []
    async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
        for kind, count in kinds.items():
            options = to_plain(kind)
            lines.append((count, await client.image.estimate_cost(options.pop("prompt"), **options)))
    with stdout_checked():
        if given["as_json"]:
            from blossom_async.models import to_json

            click.echo(to_json(_sum(lines, broken)))
        else:
            _print(_sum(lines, broken))
    return 1 if broken else 0


def _sum(lines: list[tuple[int, Estimate]], broken: int) -> dict[str, Any]:
    unknown = sum(count for count, cost in lines if cost.usd is None)
    return {
        "pictures": sum(count for count, _ in lines),
        "unusable_lines": broken,
        "credits": sum(count * cost.credits for count, cost in lines),
        "usd": sum(count * cost.usd for count, cost in lines if cost.usd is not None),
        "pictures_without_a_known_price": unknown,
        "providers": sorted({cost.provider for _, cost in lines}),
    }


def _print(found: dict[str, Any]) -> None:
    pictures, unknown = found["pictures"], found["pictures_without_a_known_price"]
    click.echo(f"{plural(pictures, 'picture')} by {', '.join(found['providers']) or 'nobody'}")
    click.echo(f"{found['credits']:,} credits")
    if pictures > unknown:
        click.echo(f"{found['usd']:,.2f} US dollars")
    if unknown:
        click.echo(f"the price of {plural(unknown, 'picture')} is not known in advance")
