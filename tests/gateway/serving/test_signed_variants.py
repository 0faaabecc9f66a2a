"""Ten thousand altered URLs of signed pictures in fewer pixels: none opens anything."""

from __future__ import annotations

import asyncio
import random
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from yarl import URL

from tests.conftest import running_gateway
from tests.gateway.serving.test_public import next_answer

pytestmark = pytest.mark.campaign

ALTERED = 10_000
WIDTHS = (100, 200)
LETTERS = string.ascii_letters + string.digits + "/?&=.-_~%;w"


def byte(target: str, rng: random.Random) -> str:
    """One to three characters replaced, put in or left out."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(1, len(target))
        target = target[:at] + rng.choice(["", rng.choice(LETTERS)]) + target[at + rng.randint(0, 1) :]
    return target


def width(target: str, rng: random.Random) -> str:
    """Another width, or the same one written otherwise."""
    path, _, query = target.partition("?")
    head, _, _ = path.partition("/w")
    written = [f"w{rng.randint(1, 5000)}", "w0100", "W100", "w100/w200", "w1e2", "w%31%30%30", "w", "w100/"]
    return f"{head}/{rng.choice(written)}?{query}"


def time(target: str, rng: random.Random) -> str:
    """A later end."""
    head, _, rest = target.partition("exp=")
    return f"{head}exp={int(rest[:10]) + rng.randint(1, 10**9)}{rest[10:]}"


def place(target: str, rng: random.Random) -> str:
    """The same signature under the other path, in some format."""
    ending = rng.choice([".png", ".jpg", ".auto", ""])
    return target.replace("/image/", "/generated/").replace("?", f"{ending}?")


ALTERATIONS: tuple[Callable[[str, random.Random], str], ...] = (byte, byte, width, time, place)


async def test_nothing_altered_opens(tmp_path: Path) -> None:
    """Not by a character, a width, a time, a path or another picture's signature."""
    rng = random.Random(20261128)  # noqa: S311 - reproducible, not secret
    async with running_gateway(tmp_path) as running, running.client() as client:
        issued = []
        for prompt in ("a lake", "a pond"):
            info = await client.image.generate_url_with_info(
                prompt, width=400, height=200, format="jpg", widths=WIDTHS, require_signature=True
            )
            signed = await client.image.sign_url(info.url)
            urls = [info.variant_url(number, url=signed) for number in (*WIDTHS, 400)]
            issued += [URL(url, encoded=True).raw_path_qs for url in urls]
        swapped = [
            f"{one.partition('?')[0]}?{other.partition('?')[2]}" for one in issued[:3] for other in issued[3:]
        ]
        altered = set(swapped)
        while len(altered) < ALTERED:
            target = rng.choice(issued)
            altered.add(rng.choice(ALTERATIONS)(target, rng))
        altered -= set(issued)
        port = URL(running.base_url).port
        counted: Counter[int] = Counter()

        async def viewer(targets: list[str]) -> None:
            while targets:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                closing = False
                while targets and not closing:
                    target = targets.pop()
                    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    answer = await next_answer(reader)
                    closing = answer.headers.get("connection") == "close"
                    counted[answer.status] += 1
                    assert answer.status in {400, 403, 404, 410}, target
                    assert answer.headers["cache-control"] == "no-store", target
                writer.close()
                await writer.wait_closed()

        await viewer(list(altered))
        assert counted.total() == len(altered)
        assert {400, 403, 404} <= set(counted)
        for target in issued:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await next_answer(reader)).status == 200
            writer.close()
