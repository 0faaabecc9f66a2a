"""The ledger is the truth about money, also after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async.errors import ConfigurationError
from blossom_async.testing import Charge, FakeOpenAI, Ledger
from tests.thorough import thoroughly
from tests.waiting import LIMIT_S

CHARGES = st.builds(
    Charge,
    at=st.datetimes(timezones=st.just(UTC)),
    provider=st.sampled_from(["pollinations", "openai"]),
    request_id=st.text(),
    idempotency_key=st.none() | st.sampled_from(["a", "b", "ключ", 'quote"\n']),
    model=st.text(),
    prompt_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    seed=st.none() | st.integers(),
    amount=st.decimals(0, 10, places=6),
    unit=st.sampled_from(["pollen", "usd"]),
)


def charge(key: str | None = None, prompt: str = "p", amount: str = "0.1") -> Charge:
    return Charge(
        at=datetime.now(UTC),
        provider="openai",
        request_id="r",
        idempotency_key=key,
        model="m",
        prompt_sha256=prompt,
        seed=None,
        amount=Decimal(amount),
        unit="usd",
    )


@settings(deadline=None)  # disks are as slow as they are
@given(charges=st.lists(CHARGES, max_size=8))
def test_what_is_entered_is_read_back(
    charges: list[Charge], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From another reader while it is open, and by the next owner of the file; the total is exact."""
    path = tmp_path_factory.mktemp("ledger") / "charges.jsonl"
    ledger = Ledger(path)
    for each in charges:
        ledger.add(each)
    assert Ledger.read(path).charges == ledger.charges == tuple(charges)
    ledger.close()
    owner = Ledger(path)
    owner.close()
    assert owner.charges == tuple(charges)
    assert owner.total == sum(each.amount for each in charges)


@settings(deadline=None)  # disks are as slow as they are
@given(charges=st.lists(CHARGES, max_size=12))
def test_groups_of_double_charges_are_those_with_one_key(charges: list[Charge]) -> None:
    """Every charge with a key that is not alone is in exactly one group; no other charge is."""
    ledger = Ledger()
    for each in charges:
        ledger.add(each)
    keys = [each.idempotency_key for each in charges if each.idempotency_key is not None]
    groups = ledger.double_charges()
    assert sorted(len(group) for group in groups) == sorted(
        keys.count(key) for key in set(keys) if keys.count(key) > 1
    )
    assert all(len({each.idempotency_key for each in group}) == 1 for group in groups)


def test_the_caller_may_say_what_marks_a_request() -> None:
    """``by`` takes the place of the idempotency key."""
    ledger = Ledger()
    for key, prompt in (("a", "fox"), ("b", "fox"), (None, "owl")):
        ledger.add(charge(key, prompt))
    assert ledger.double_charges() == []
    assert [len(group) for group in ledger.double_charges(by=lambda each: each.prompt_sha256)] == [2]


def test_sums_are_exact() -> None:
    """Ten dimes are a dollar."""
    ledger = Ledger()
    for _ in range(10):
        ledger.add(charge())
    assert ledger.total == 1


def test_a_torn_last_line_is_no_charge(tmp_path: Path) -> None:
    """A reader passes over it, the next owner cuts it off."""
    path = tmp_path / "charges.jsonl"
    ledger = Ledger(path)
    ledger.add(charge("a"))
    ledger.close()
    with path.open("ab") as file:
        file.write(b'{"at": "2026')
    assert len(Ledger.read(path).charges) == 1
    ledger = Ledger(path)
    ledger.add(charge("b"))
    ledger.close()
    assert [each.idempotency_key for each in Ledger.read(path).charges] == ["a", "b"]


@pytest.mark.parametrize("line", ["hello", "[]", "{}", '{"at": 5}'])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(line: str, tmp_path: Path) -> None:
    """The error names the line."""
    path = tmp_path / "notes.txt"
    path.write_text(f"{line}\n")
    for opened in (Ledger, Ledger.read):
        with pytest.raises(ConfigurationError, match="line 1 is not a charge"):
            opened(path)
    assert path.read_text() == f"{line}\n"


def test_a_ledger_has_one_owner(tmp_path: Path) -> None:
    """A second server is refused until the first has let go."""
    first = Ledger(tmp_path / "charges.jsonl")
    with pytest.raises(ConfigurationError, match="in use"):
        Ledger(tmp_path / "charges.jsonl")
    first.close()
    Ledger(tmp_path / "charges.jsonl").close()


@contextmanager
def fake_process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``python -m blossom_async.testing`` and the address it prints."""
    command = [sys.executable, "-W", "error", "-m", "blossom_async.testing", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def order(base_url: str, key: str) -> None:
    body = {"model": "m", "prompt": f"fox {key}", "size": "16x16"}
    async with aiohttp.request(
        "POST", f"{base_url}/images/generations", json=body, headers={"Idempotency-Key": key}
    ) as response:
        assert response.status == 200


async def test_charges_survive_kill_nine(tmp_path: Path) -> None:
    """Each answered request is in the file after SIGKILL, and no key is there twice."""
    path = tmp_path / "charges.jsonl"
    answered: set[str] = set()
    with fake_process("openai", "--ledger", str(path)) as (process, base_url):

        async def order_until_dead(worker: int) -> None:
            for number in range(1000):
                await order(base_url, f"{worker}-{number}")
                answered.add(f"{worker}-{number}")
                if len(answered) == 100:
                    os.kill(process.pid, signal.SIGKILL)

        ended = await asyncio.gather(
            *(order_until_dead(worker) for worker in range(8)), return_exceptions=True
        )
        assert all(isinstance(end, aiohttp.ClientError) for end in ended)
    ledger = Ledger.read(path)
    assert len(answered) >= 100
    assert answered <= {each.idempotency_key for each in ledger.charges}
    assert ledger.double_charges() == []


async def test_a_keyed_server_knows_its_keys_after_a_restart(tmp_path: Path) -> None:
    """The same key brings a picture from the next process, and no second charge."""
    path = tmp_path / "charges.jsonl"
    for _ in range(2):
        with fake_process("openai", "--keyed", "--ledger", str(path)) as (process, base_url):
            await order(base_url, "k1")
            os.kill(process.pid, signal.SIGKILL)
    async with FakeOpenAI(keyed=True, ledger_file=path) as server:
        await order(server.base_url, "k1")
        assert len(server.ledger.charges) == 1


async def test_a_process_fails_as_its_command_line_says_and_ends_on_sigterm(tmp_path: Path) -> None:
    """``--fail FAULT=PROBABILITY``; the one line of output is the address; status 0."""
    with fake_process("pollinations", "--fail", "edge_530=1") as (process, base_url):
        async with aiohttp.request("GET", f"{base_url}/image/fox") as response:
            assert response.status == 530
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    thoroughly(
        (["openai", "--fail", "resett"], "Did you mean 'reset'"),
        (["nobody"], "invalid choice"),
        (["openai", "--fail", "reset=often"], "often"),
        (["openai", "--fail", "reset=2"], "0.0..1.0"),
    ),
)
def test_a_wrong_command_line_is_status_2(arguments: list[str], says: str) -> None:
    """With one line that says what is wrong."""
    command = [sys.executable, "-m", "blossom_async.testing", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
