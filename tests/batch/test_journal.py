"""The journal: an item that was handed out is never sent again, wherever the file or the process was cut."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blossom_async.batch import Done, Journal, RetryPolicy, current_attempt, run, stream
from blossom_async.batch import journal as journal_module
from blossom_async.batch.journal import OpenJournal
from blossom_async.errors import ConfigurationError, JournalMismatch, Rejected, ServerFailed
from tests.forking import FORKS
from tests.thorough import examples
from tests.waiting import LIMIT_S


class Sent:
    """An attempt function that remembers what it was sent, and under which keys."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.items: Counter[str] = Counter()
        self.keys: dict[str, set[str]] = {}
        self._failing = failing

    async def attempt(self, item: str) -> str:
        self.items[item] += 1
        self.keys.setdefault(item, set()).add(current_attempt().key)
        await asyncio.sleep(0)
        if item in self._failing:
            raise ServerFailed("broken")
        return item.upper()


def names(count: int) -> list[str]:
    return [f"item {n}" for n in range(count)]


def whole_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def test_a_second_run_sends_nothing(tmp_path: Path) -> None:
    """All values come from the journal; the file does not grow."""
    path = tmp_path / "run.jsonl"
    first, second = Sent(), Sent()
    result = await run(first.attempt, names(200), journal=path)
    size = path.stat().st_size
    again = await run(second.attempt, names(200), journal=str(path))
    assert list(again) == list(result) == [name.upper() for name in names(200)]
    assert not second.items
    assert {o.attempts for o in again.outcomes} == {0}
    assert path.stat().st_size == size


async def test_an_outcome_is_handed_out_once_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is in the part of the file that has reached the disk."""
    path, really, synced = tmp_path / "run.jsonl", journal_module._sync, [0]

    def sync(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        really(descriptor)
        synced.append(size)

    monkeypatch.setattr(journal_module, "_sync", sync)
    async with stream(Sent().attempt, names(100), journal=path, max_concurrency=4) as outcomes:
        async for outcome in outcomes:
            _, *lines = path.read_bytes()[: synced[-1]].splitlines()
            assert outcome.index in {json.loads(line)["index"] for line in lines}


async def test_the_file_is_json_lines_with_a_header(tmp_path: Path) -> None:
    """Readable by any tool; only its owner may read it."""
    path = tmp_path / "run.jsonl"
    await run(Sent(("item 1",)).attempt, names(3), journal=Journal(path, run="model x"))
    header, *records = whole_lines(path)
    assert (header["journal"], header["run"]) == (1, "model x")
    by_index = {record["index"]: record for record in records}
    assert by_index[0]["value"] == "ITEM 0"
    assert by_index[1]["error"] == "ServerFailed: broken (500 server_failed)"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_failed_items_are_tried_again_under_the_same_key(tmp_path: Path) -> None:
    """A finished item is not; a journal may grow with its batch."""
    path = tmp_path / "run.jsonl"
    first, second = Sent(("item 1", "item 3")), Sent()
    await run(first.attempt, names(5), journal=path)
    journal = Journal(path)
    result = await run(second.attempt, names(7), journal=journal)
    assert set(second.items) == {"item 1", "item 3", "item 5", "item 6"}
    assert list(result) == [name.upper() for name in names(7)]
    assert all(second.keys[item] == first.keys[item] for item in ("item 1", "item 3"))
    assert journal.found is not None
    assert (journal.found.finished, journal.found.failed) == (3, 2)


async def test_a_value_is_on_disk_before_it_is_handed_out(tmp_path: Path) -> None:
    """At each outcome of a stream its record stands in the file, whole."""
    path = tmp_path / "run.jsonl"
    async with stream(Sent().attempt, names(100), journal=path, max_concurrency=7) as outcomes:
        async for outcome in outcomes:
            on_disk = {record.get("index") for record in whole_lines(path)}
            assert outcome.index in on_disk


async def test_values_are_encoded_by_the_caller(tmp_path: Path) -> None:
    """The engine knows JSON and nothing else."""
    journal = Journal(tmp_path / "run.jsonl", encode=lambda b: b.hex(), decode=bytes.fromhex)

    async def attempt(item: str) -> bytes:
        return item.encode()

    assert list(await run(attempt, ["ä"], journal=journal)) == ["ä".encode()]
    assert list(await run(attempt, ["ä"], journal=journal)) == ["ä".encode()]
    with pytest.raises(ConfigurationError, match=r"value of item 0 cannot be written.*encode"):
        await run(attempt, ["ä"], journal=tmp_path / "other.jsonl")


async def test_a_changed_batch_is_refused(tmp_path: Path) -> None:
    """Another order, other items, fewer items, another run, items without a key: each with what to do."""
    path = tmp_path / "run.jsonl"
    await run(Sent().attempt, names(5), journal=path)
    before = path.read_bytes()
    sent = Sent()
    for items in (names(5)[::-1], ["new", *names(4)], iter(names(5)[1:])):
        with pytest.raises(JournalMismatch, match=r"run\.jsonl: item 0 is not the item.*options .*delete"):
            await run(sent.attempt, items, journal=path)
    with pytest.raises(JournalMismatch, match="this batch has 2 items"):
        await run(sent.attempt, names(2), journal=path)
    with pytest.raises(JournalMismatch, match=r"belongs to another run.*run 'other'"):
        await run(sent.attempt, names(5), journal=Journal(path, run="other"))
    with pytest.raises(ConfigurationError, match="key: missing, and item 7"):
        await run(asyncio.sleep, [7], journal=tmp_path / "new.jsonl")
    assert not sent.items
    assert path.read_bytes() == before


async def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    """A prompt file given by mistake keeps every byte."""
    path = tmp_path / "prompts.txt"
    for content in (b"a red fox\na blue fox\n", b"a", b'{"index":1}\n', b'{"journal":1}\n'):
        path.write_bytes(content)
        with pytest.raises(JournalMismatch, match="left as it is"):
            await run(Sent().attempt, names(2), journal=path)
        assert path.read_bytes() == content


async def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    """The file is locked for as long as a run writes it."""
    path = tmp_path / "run.jsonl"
    async with stream(Sent().attempt, names(3), journal=path) as outcomes:
        with pytest.raises(ConfigurationError, match="another run is writing it"):
            await run(Sent().attempt, names(3), journal=path)
        assert len([o async for o in outcomes]) == 3
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Before anything is sent."""
    sent = Sent()
    with pytest.raises(ConfigurationError, match="cannot be written: No such file or directory"):
        await run(sent.attempt, names(3), journal=tmp_path / "missing" / "run.jsonl")
    with pytest.raises(ConfigurationError, match="cannot be written: Is a directory"):
        await run(sent.attempt, names(3), journal=tmp_path)
    assert not sent.items


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
async def test_a_device_is_refused(device: str) -> None:
    """Reading one may never end."""
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ConfigurationError, match=rf"journal {device}: .*allowed: a regular file"):
            await run(Sent().attempt, names(3), journal=device)


async def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """Without waiting for somebody at its other end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ConfigurationError, match="allowed: a regular file"):
            await run(Sent().attempt, names(3), journal=path)


@pytest.mark.parametrize("impossible", ["a\0b", "a\ud800b"])
async def test_a_path_that_can_be_no_file_is_refused(tmp_path: Path, impossible: str) -> None:
    """In one line, which shows what is wrong with it."""
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ConfigurationError, match=r"not a valid path: .*; use another") as caught:
            await run(Sent().attempt, names(3), journal=tmp_path / impossible)
    assert str(caught.value).isprintable()


class UnforeseenError(BaseException):
    """What nobody has thought of."""


async def test_what_nobody_foresaw_on_opening_is_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch does not wait for a thread that has died."""

    def unforeseen(_: bytes) -> None:
        raise UnforeseenError

    monkeypatch.setattr(journal_module, "_record", unforeseen)
    sent = Sent()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(UnforeseenError):
            await run(sent.attempt, names(3), journal=tmp_path / "run.jsonl")
    assert not sent.items


async def test_what_nobody_foresaw_on_writing_is_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran is handed out before."""
    sent, seen = Sent(), []

    def unforeseen(_: int) -> None:
        raise UnforeseenError

    async def read() -> None:
        async with stream(sent.attempt, names(500), journal=tmp_path / "run.jsonl") as outcomes:
            async for outcome in outcomes:
                seen.append(outcome)  # noqa: PERF401 - the loop raises

    monkeypatch.setattr(journal_module, "_sync", unforeseen)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(UnforeseenError):
            await read()
    assert len(seen) == len(sent.items) < 500


async def test_a_full_disk_stops_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran is handed out, nothing new starts, and the error says so; the next run goes on from there."""
    path, sent, commits = tmp_path / "run.jsonl", Sent(), 0
    sync = os.fdatasync

    def full(fd: int) -> None:
        nonlocal commits
        commits += 1
        if commits > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    monkeypatch.setattr(journal_module, "_sync", full)
    seen = []

    async def read() -> None:
        async with stream(sent.attempt, names(5000), journal=path, max_concurrency=2) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome)  # noqa: PERF401 - the loop raises

    with pytest.raises(ConfigurationError, match="No space left on device"):
        await read()
    assert len(seen) == len(sent.items) < 5000
    monkeypatch.undo()
    assert list(await run(sent.attempt, names(5000), journal=path)) == [n.upper() for n in names(5000)]


async def test_leaving_early_keeps_what_was_finished(tmp_path: Path) -> None:
    """Also when cancelled; no thread and no lock stays behind."""
    path, sent, before = tmp_path / "run.jsonl", Sent(), set(threading.enumerate())
    async with stream(sent.attempt, names(1000), journal=path, window=10) as outcomes:
        await anext(outcomes)
    begun = Sent()
    slow = asyncio.create_task(run(begun.attempt, names(3000), journal=path))
    while not begun.items:  # noqa: ASYNC110 - it is to be cancelled in the midst of its first items
        await asyncio.sleep(0)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name == "blossom journal"]
    await run(sent.attempt, names(3000), journal=path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal of seven items, one of which failed."""
    path = tmp_path_factory.mktemp("journal") / "run.jsonl"
    asyncio.run(run(Sent(("item 4",)).attempt, names(7), journal=path))
    return path.read_bytes()


def resume(path: Path) -> tuple[Sent, Journal]:
    sent, journal = Sent(), Journal(path)
    result = asyncio.run(asyncio.wait_for(run(sent.attempt, names(7), journal=journal), 30))
    assert list(result) == [name.upper() for name in names(7)]
    return sent, journal


@pytest.mark.campaign
def test_a_journal_cut_at_any_byte_loses_no_whole_record(
    finished: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only items without a whole record are sent; the torn end is removed and reported."""
    caplog.set_level(logging.WARNING)
    path = tmp_path / "run.jsonl"
    everything = {record["index"] for record in map(json.loads, finished.splitlines()[1:])}
    assert everything == set(range(7))
    for length in range(len(finished) + 1):
        path.write_bytes(finished[:length])
        whole = [
            json.loads(line) for line in finished[:length].splitlines(keepends=True) if line.endswith(b"\n")
        ]
        done = {record["index"] for record in whole[1:] if record["ok"]}
        caplog.clear()
        sent, journal = resume(path)
        assert set(sent.items) == {f"item {n}" for n in set(range(7)) - done}
        assert max(sent.items.values(), default=1) == 1
        torn = length - (finished[:length].rfind(b"\n") + 1)
        assert journal.found is not None
        assert journal.found.cut_bytes == torn
        assert bool(caplog.records) == bool(torn)
        final = whole_lines(path)
        assert {record["index"] for record in final[1:] if record["ok"]} == set(range(7))


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_bit_costs_one_record(finished: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Past the header, wherever it is: that item is sent again and no other."""
    header = finished.index(b"\n") + 1
    position = data.draw(st.integers(header, len(finished) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(finished)
    damaged[position] ^= 1 << bit
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(damaged)
    sent, journal = resume(path)
    assert set(sent.items) >= {"item 4"}
    newlines = finished[position : position + 1] == b"\n" or damaged[position : position + 1] == b"\n"
    assert len(sent.items) <= (3 if newlines else 2)
    assert journal.found is not None
    assert journal.found.cut_bytes or journal.found.damaged_lines


WHOLE = {"index": 3, "key": "k", "ok": True, "value": "V"}


@pytest.mark.parametrize(
    "change",
    [
        {"ok": None},
        {"ok": 1},
        {"key": 7},
        {"cost": "zzz"},
        {"cost": [1]},
        {"cost": 1},
        {"cost": "-1"},
        {"cost": "NaN"},
        {"cost": "Infinity"},
        {"cost": "1e999999999"},
        {"index": True},
        {"index": -1},
        {"index": "3"},
        {"index": 2_000_000},
        {"index": 100_000_000},
        {"index": 2**70},
        {"value": ...},
        {"ok": ..., "key": ...},
    ],
    ids=str,
)
def test_a_line_that_is_whole_and_makes_no_sense_is_damaged(
    finished: bytes, tmp_path: Path, change: dict[str, Any]
) -> None:
    """It costs its item and no other, and no memory."""
    path = tmp_path / "run.jsonl"
    record = {name: value for name, value in {**WHOLE, **change}.items() if value is not ...}
    body = line_of(record)
    header, *records = finished.splitlines(keepends=True)
    path.write_bytes(b"".join([header, body, *records]))
    sent, journal = resume(path)
    assert set(sent.items) == {"item 4"}
    assert journal.found is not None
    assert (journal.found.finished, journal.found.damaged_lines) == (6, 1)


def line_of(record: dict[str, Any]) -> bytes:
    """A line with a true checksum, also of numbers that orjson does not write."""
    body = json.dumps(record, separators=(",", ":")).encode()[:-1]
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


async def test_a_line_that_is_too_long_is_damaged(
    finished: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is passed over in pieces; a value that would need such a line is refused."""
    monkeypatch.setattr(journal_module, "_LONGEST_LINE", 1000)
    path = tmp_path / "run.jsonl"
    header, *records = finished.splitlines(keepends=True)
    long = line_of({**WHOLE, "value": "V" * 3000})
    path.write_bytes(b"".join([header, long, *records, b"x" * 2500]))
    sent, journal = Sent(), Journal(path)
    await run(sent.attempt, names(7), journal=journal)
    assert set(sent.items) == {"item 4"}
    assert journal.found is not None
    assert (journal.found.damaged_lines, journal.found.cut_bytes) == (1, 2500)
    with pytest.raises(
        ConfigurationError, match=r"value of item 7 takes a line of 1[0-9]{3} bytes; allowed: 1000"
    ):
        await run(sent.attempt, [*names(7), "x" * 1000], journal=path)


async def test_a_file_of_one_endless_line_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when it begins as a journal does."""
    monkeypatch.setattr(journal_module, "_LONGEST_LINE", 1000)
    path = tmp_path / "big.json"
    path.write_bytes(content := b'{"journal":' + b"[" * 5000)
    with pytest.raises(JournalMismatch, match="left as it is"):
        await run(Sent().attempt, names(2), journal=path)
    assert path.read_bytes() == content


async def test_a_failed_item_may_be_corrected_or_left_out(tmp_path: Path) -> None:
    """It is a new item, under a new key; what is finished stays."""
    path, first, second = tmp_path / "run.jsonl", Sent(("item 1", "item 4")), Sent()
    await run(first.attempt, names(5), journal=path)
    corrected = ["item 0", "better", "item 2", "item 3"]
    assert list(await run(second.attempt, corrected, journal=path)) == [n.upper() for n in corrected]
    assert set(second.items) == {"better"}
    assert second.keys["better"].isdisjoint(first.keys["item 1"])


async def test_what_a_corrected_item_has_cost_before_stays_spent(tmp_path: Path) -> None:
    """A broken answer may have been paid for, and nobody repeats that item under its key."""
    path = tmp_path / "run.jsonl"

    async def cost_of(items: list[str], max_cost: int) -> list[str | None]:
        attempt = Sent(("broken",)).attempt
        return list(await run(attempt, items, cost=lambda _: 1, max_cost=max_cost, journal=path))

    assert await cost_of(["broken"], 1) == [None]
    assert await cost_of(["better"], 1) == [None]
    assert await cost_of(["better", "c"], 2) == ["BETTER", None]
    assert await cost_of(["better", "c"], 2) == ["BETTER", None]
    assert await cost_of(["better", "c"], 3) == ["BETTER", "C"]


async def test_a_value_that_decode_refuses_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the same key, and the old one stays paid for; the log says how many and why, once."""
    path, first, second = tmp_path / "run.jsonl", Sent(), Sent()

    def decode(value: str) -> str:
        if value in {"ITEM 1", "ITEM 3"}:
            raise ValueError("has expired")
        return value

    await run(first.attempt, names(5), journal=path, cost=lambda _: 1, max_cost=5)
    journal = Journal(path, decode=decode)
    result = await run(second.attempt, names(5), journal=journal, cost=lambda _: 1, max_cost=6)
    assert list(result) == ["ITEM 0", "ITEM 1", "ITEM 2", None, "ITEM 4"]
    assert set(second.items) == {"item 1"}
    assert second.keys["item 1"] == first.keys["item 1"]
    (record,) = caplog.records
    assert "2 recorded values were unusable (first item 1: has expired)" in record.getMessage()
    assert list(await run(second.attempt, names(5), journal=path)) == [n.upper() for n in names(5)]


async def test_another_exception_of_decode_ends_the_batch(tmp_path: Path) -> None:
    """Also one that would pass for the end of the input."""

    def decode(_: str) -> str:
        raise LookupError("a mistake")

    def ended(_: str) -> str:
        raise StopIteration

    path = tmp_path / "run.jsonl"
    await run(Sent().attempt, names(5), journal=path)
    with pytest.raises(LookupError, match="a mistake"):
        await run(Sent().attempt, names(5), journal=Journal(path, decode=decode))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await run(Sent().attempt, names(5), journal=Journal(path, decode=ended))


async def test_an_item_whose_key_fails_leaves_its_record_alone(tmp_path: Path) -> None:
    """It has failed in this run; what is finished on record comes back when the key does."""
    path = tmp_path / "run.jsonl"

    def broken(item: str) -> str:
        if item == "item 1":
            raise Rejected("no key today")
        return item

    await run(Sent().attempt, names(3), journal=path)
    before = path.read_bytes()
    result = await run(Sent().attempt, names(3), journal=path, key=broken)
    assert [str(o.error) for o in result.failures] == ["no key today (422 invalid_request)"]
    assert path.read_bytes() == before
    assert (await run(Sent().attempt, names(3), journal=path)).outcomes[1].attempts == 0


CHILD = """
import asyncio, sys
from blossom_async.batch import current_attempt, run

async def attempt(item):
    print("sent:", item, current_attempt().key, flush=True)
    await asyncio.sleep(0.002)
    return item * 2

async def main():
    def done(progress):
        print("handed out:", progress.done, flush=True)
    result = await run(attempt, [f"item {n}" for n in range(600)], max_concurrency=8,
                       journal=sys.argv[1], on_progress=done)
    print("result", sum(value is not None for value in result), flush=True)

asyncio.run(main())
"""


@pytest.mark.campaign
def test_kill_9_at_any_moment_loses_nothing_and_repeats_what_was_in_flight(tmp_path: Path) -> None:
    """Killed again and again until it is through; each item is sent once, or again if it was under way."""
    path = tmp_path / "run.jsonl"
    chance = random.Random(7)  # noqa: S311 - reproducible, not secret
    sent: Counter[str] = Counter()
    keys: dict[str, set[str]] = {}
    kills = 0
    for _ in range(60):
        on_record_before = _finished_on_record(path)
        lines: list[str] = []
        until_kill = chance.randrange(1, 80)
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                lines.append(line)
                until_kill -= line.startswith("sent")
                if until_kill == 0:
                    child.send_signal(signal.SIGKILL)
        handed_out = 0
        for line in filter(lambda line: line.endswith("\n"), lines):  # the last may be torn
            kind, _, rest = line.rstrip().partition(": ")
            if kind == "sent":
                item, _, key = rest.rpartition(" ")
                assert item not in on_record_before, "a finished item was sent again"
                sent[item] += 1
                keys.setdefault(item, set()).add(key)
            elif kind == "handed out":
                handed_out = int(rest)
        assert len(_finished_on_record(path)) >= handed_out
        if child.returncode == 0:
            assert lines[-1] == "result 600\n"
            break
        kills += 1
    assert child.returncode == 0
    assert kills >= 5
    assert len(sent) == 600
    assert all(len(of_item) == 1 for of_item in keys.values())
    # In flight at a kill: eight under way, and what was ended and not yet on disk.
    assert sum(sent.values()) - 600 <= kills * 64


def _finished_on_record(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = path.read_bytes().splitlines(keepends=True)[1:]
    records = [journal_module._record(line) for line in lines]
    return {f"item {record['index']}" for record in records if record is not None}


async def test_a_retry_is_one_record(tmp_path: Path) -> None:
    """The journal knows ends, not attempts."""
    failed: set[str] = set()

    async def once_broken(item: str) -> str:
        if item not in failed:
            failed.add(item)
            raise ServerFailed("once")
        return item

    path = tmp_path / "run.jsonl"
    await run(once_broken, names(5), journal=path, retry=RetryPolicy(first_wait_s=0.001))
    assert sorted(record["index"] for record in whole_lines(path)[1:]) == list(range(5))
    assert {record["attempts"] for record in whole_lines(path)[1:]} == {2}


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS without lockd: what was seen, what is allowed, and what to do."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(
        ConfigurationError,
        match=r"run\.jsonl cannot be locked \(No locks.*local disk.*another path for the journal",
    ):
        asyncio.run(run(Sent().attempt, ["a"], journal=tmp_path / "run.jsonl"))


@FORKS
async def test_a_forked_process_neither_locks_an_open_journal_nor_writes_it(tmp_path: Path) -> None:
    """It is told so, and outlives the run without keeping the next one from the file."""
    path = tmp_path / "run.jsonl"
    journal: OpenJournal[str, str] = OpenJournal(Journal(path), lambda _: None, lambda *_: None)
    await journal.open()
    told, tell = os.pipe()
    stay, leave = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(leave)
        try:
            journal.append(Done(0, "a", "A", 1, 0.0), "key", Decimal(0))
        except ConfigurationError as exc:
            os.write(tell, str(exc).encode())
        os.read(stay, 1)  # until the parent has closed its end
        os._exit(0)
    try:
        said = os.read(told, 4096).decode()
        assert f"was opened by process {os.getpid()}, and this is a fork of it; allowed: one process" in said
        await journal.close()
        result = await run(Sent().attempt, ["a"], journal=path)  # the child does not hold the lock
        assert list(result) == ["A"]
        assert [line.get("index") for line in whole_lines(path)] == [None, 0]
    finally:
        for descriptor in (told, tell, stay, leave):
            os.close(descriptor)
        await asyncio.to_thread(os.waitpid, child, 0)
