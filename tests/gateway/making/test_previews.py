"""A picture made for an OpenAI client has its preview once somebody asks for that."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.gateway.calls.test_repeats import BODY, client_of, paid_gateway


async def test_a_preview_is_made_when_it_is_first_asked_for(tmp_path: Path) -> None:
    """OpenAI's clients never see one; who looks the picture up does, and it is kept."""

    def stored() -> list[tuple[str | None, str | None]]:
        with closing(sqlite3.connect(tmp_path / "records.sqlite")) as database:
            return database.execute("select thumbhash, dominant_color from images").fetchall()

    async with (
        paid_gateway(tmp_path) as (running, _),
        client_of(running) as openai,
        running.client() as client,
    ):
        made = await openai.images.generate(**BODY, response_format="url")  # type: ignore[call-overload]
        assert stored() == [(None, None)]
        info = await client.image.get(made.data[0].url)
        assert stored() == [(info.thumbhash, info.dominant_color)]
        assert info.thumbhash is not None
