"""``blossom spend``, budgets of keys, and what a batch would cost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from blossom_async.cli.commands import commands
from blossom_async.errors import Conflict, PaymentRequired
from blossom_async.gateway.providers.faults import Kind
from blossom_async.models import ImageRequest
from tests.gateway.making.test_paid import Paid, house


def told(*arguments: str) -> Result:
    return CliRunner().invoke(commands, list(arguments))


async def lose_an_answer(folder: Path) -> str:
    """The id of a call of which nobody knows whether it was paid."""
    paid = Paid()
    paid.fails(Kind.LOST, "unknown")
    async with house(folder, paid) as rooms:
        with pytest.raises(Conflict):
            await rooms.create()
        (call,) = await rooms.calls()
        return call.image_id


class TestHeld:
    def test_a_held_call_is_listed_and_released(self, tmp_path: Path) -> None:
        """By id; then it is booked as said, and its key is free."""
        image_id = asyncio.run(lose_an_answer(tmp_path))
        listed = told("spend", "held", "--json", "--data-dir", str(tmp_path))
        (held,) = json.loads(listed.stdout)
        assert (held["id"], held["provider"], held["usd_reserved"]) == (image_id, "paid", 0.04)
        assert image_id in told("spend", "held", "--data-dir", str(tmp_path)).stdout
        refused = told("spend", "release", image_id, "--data-dir", str(tmp_path))
        assert refused.exit_code == 2
        assert "--paid or --not-paid" in refused.stderr
        done = told("spend", "release", image_id, "--not-paid", "--data-dir", str(tmp_path))
        assert done.exit_code == 0
        assert "1 call released as not paid" in done.stderr
        assert "no held calls" in told("spend", "held", "--data-dir", str(tmp_path)).stderr
        again = told("spend", "release", image_id, "--not-paid", "--data-dir", str(tmp_path))
        assert again.exit_code == 1
        assert "is not a held call" in again.stderr

    def test_what_was_spent(self, tmp_path: Path) -> None:
        """By day, key and provider, in dollars."""

        async def spend() -> None:
            async with house(tmp_path, Paid()) as rooms:
                for number in range(3):
                    await rooms.create(ImageRequest("x", width=32, height=32), key=str(number))

        asyncio.run(spend())
        days = str(365 * 30)
        where = ("--days", days, "--data-dir", str(tmp_path))
        (row,) = json.loads(told("spend", "list", "--json", *where).stdout)
        assert (row["requests"], row["pictures"]) == (3, 3)
        assert row["usd"] == pytest.approx(0.12)
        assert "0.1200" in told("spend", "list", *where).stdout


class TestBudgets:
    def test_a_keys_own_budget_is_kept(self, tmp_path: Path) -> None:
        """`blossom keys create --daily-budget` wins over the setting."""
        made = told("keys", "create", "shop", "--daily-budget", "0.1", "--data-dir", str(tmp_path))
        assert made.exit_code == 0

        async def order() -> list[object]:
            async with house(tmp_path, Paid(), daily_budget=10_000_000) as rooms:
                wishes = [ImageRequest(f"view {number}", width=32, height=32) for number in range(5)]
                return await asyncio.gather(
                    *(
                        rooms.generation.create(wish, tenant="shop", payer="shop", key=wish.prompt)
                        for wish in wishes
                    ),
                    return_exceptions=True,
                )

        made_or_not = asyncio.run(order())
        assert [type(each) for each in made_or_not].count(PaymentRequired) == 3
        listed = told("keys", "list", "--json", "--data-dir", str(tmp_path))
        assert json.loads(listed.stdout)[0]["daily_budget"] == 0.1


class TestEstimates:
    def test_a_dry_run_says_the_price_and_makes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Credits, money where it is known, and the lines that cannot be used."""
        monkeypatch.setenv("BLOSSOM_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setenv("BLOSSOM_PORT", "0")
        prompts = tmp_path / "prompts.jsonl"
        lines: list[Any] = [{"prompt": "a", "quality": "hd"}, "b", {"prompt": ""}]
        prompts.write_text("\n".join(map(json.dumps, lines)))
        result = told("batch", str(prompts), "--dry-run", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout) == {
            "pictures": 2,
            "unusable_lines": 1,
            "credits": 3,
            "usd": 0.0,
            "pictures_without_a_known_price": 0,
            "providers": ["offline"],
        }
        assert "line 3" in result.stderr
        assert not list((tmp_path / "data" / "images").rglob("*.png"))

    def test_max_cost_stops_a_batch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No more is sent than the credits allow."""
        monkeypatch.setenv("BLOSSOM_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setenv("BLOSSOM_PORT", "0")
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a\nb\nc\nd\n")
        options = ("--width", "32", "--height", "32", "--max-cost", "2", "--json")
        result = told("batch", str(prompts), *options)
        assert result.exit_code == 1
        assert len(list((tmp_path / "data" / "images").rglob("*.png"))) == 2
