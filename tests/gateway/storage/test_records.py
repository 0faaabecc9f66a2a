"""Records: what is stored stays, one bad item affects no other, and opening says what is wrong."""

import asyncio
import itertools
import random
import secrets
import shutil
import sqlite3
import string
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blossom_async.errors import ConfigurationError, Conflict, Overloaded
from blossom_async.gateway import migrations
from blossom_async.gateway.storage.records import IdempotencyEntry, ImageRecord, Records, StoredFile
from blossom_async.models import VISIBLE, ImageRequest
from tests.gateway.storage.earlier import taken_back
from tests.scarcity import no_files_left
from tests.thorough import examples, thoroughly
from tests.waiting import LIMIT_S

NOW = datetime(2026, 11, 22, 14, 0, 0, 123456, tzinfo=UTC)
_BASE62 = string.digits + string.ascii_letters


def a_record(**changes: Any) -> ImageRecord:
    known = ImageRecord(
        id="".join(secrets.choice(_BASE62) for _ in range(22)),
        tenant="main",
        request=ImageRequest("a lighthouse at dawn", seed=7, metadata={"campaign": "spring"}),
        width=1024,
        height=1024,
        files=(StoredFile(format="png", sha256="ab" * 32, file_size=120_000),),
        provider="offline",
        model="scenery",
        seed=7,
        cost=1,
        created_at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )
    return attrs.evolve(known, **changes)


def an_entry(record: ImageRecord, key: str, tenant: str = "shop") -> IdempotencyEntry:
    return IdempotencyEntry(tenant=tenant, key=key, fingerprint="f" * 64, image_id=record.id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "records.sqlite"


@pytest.fixture
async def records(path: Path) -> AsyncIterator[Records]:
    opened = Records(path)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_record_comes_back_as_it_was_added(records: Records) -> None:
    """`get` gives the record with every field equal, times in UTC and to the microsecond."""
    record = a_record(expires_at=NOW.astimezone(timezone(timedelta(hours=9))) + timedelta(days=1))
    await records.add(record)
    found = await records.get(record.id)
    assert found == record
    assert found is not None
    assert found.expires_at is not None
    assert found.expires_at.tzinfo is UTC


_requests = st.builds(
    ImageRequest,
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200
    ).filter(VISIBLE.search),
    seed=st.none() | st.integers(0, 2**31 - 1),
    expires_in=st.none() | st.integers(1, 10**8),
    etag=st.none() | st.just("v,1"),
    metadata=st.dictionaries(
        st.text("aé日\"'\\", min_size=1, max_size=9), st.text("x{}:", max_size=9), max_size=8
    ),
)


@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    request_=_requests,
    created_at=st.datetimes(timezones=st.just(UTC)),
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    size=st.integers(0, 2**63 - 1),
)
def test_every_record_that_can_be_built_round_trips(
    tmp_path: Path, request_: ImageRequest, created_at: datetime, expires_at: datetime | None, size: int
) -> None:
    """`add` then `get` is the identity for every request, time and size."""
    files = (StoredFile(format="webp", sha256="cd" * 32, file_size=size), *a_record().files)
    record = a_record(request=request_, created_at=created_at, expires_at=expires_at, files=files)

    async def store_and_fetch() -> ImageRecord | None:
        records = Records(tmp_path / "records.sqlite", readers=1)
        await records.open()
        try:
            await records.add(record)
            return await records.get(record.id)
        finally:
            await records.close()

    assert asyncio.run(store_and_fetch()) == record


async def test_records_outlive_the_process_that_wrote_them(path: Path) -> None:
    """A record added before `close` is there after the next `open`."""
    record = a_record()
    first = Records(path)
    await first.open()
    await first.add(record)
    await first.close()
    second = Records(path)
    await second.open()
    assert await second.get(record.id) == record
    await second.close()


async def test_an_unknown_id_is_none(records: Records) -> None:
    """`get` of an id nobody stored is None, whatever it looks like."""
    assert await records.get("nobody") is None
    assert await records.get("'; DROP TABLE images; --") is None


async def test_ids_differ_by_case(records: Records) -> None:
    """Ids are base62: upper and lower case are different pictures."""
    record = a_record(id="a" * 22)
    await records.add(record)
    assert await records.get("A" * 22) is None


async def test_an_idempotency_key_leads_to_its_picture(records: Records) -> None:
    """`find_idempotent` gives the entry the picture was added with, and None for any other key or tenant."""
    record = a_record()
    entry = an_entry(record, "key-1")
    await records.add(record, entry)
    assert await records.find_idempotent("shop", "key-1") == entry
    assert await records.find_idempotent("shop", "key-2") is None
    assert await records.find_idempotent("other", "key-1") is None


async def test_tenants_do_not_share_keys(records: Records) -> None:
    """The same key of another tenant is no conflict."""
    for tenant in ("shop", "studio"):
        record = a_record()
        await records.add(record, an_entry(record, "key-1", tenant))


async def test_a_taken_key_is_a_conflict_and_stores_nothing(records: Records) -> None:
    """The second use of a tenant's key raises Conflict, and its picture is not stored."""
    first, second = a_record(), a_record()
    await records.add(first, an_entry(first, "key-1"))
    with pytest.raises(Conflict, match="Idempotency-Key") as caught:
        await records.add(second, an_entry(second, "key-1"))
    assert caught.value.code == "idempotency_key_taken"
    assert await records.get(second.id) is None
    assert await records.find_idempotent("shop", "key-1") == an_entry(first, "key-1")


async def test_a_taken_id_is_a_conflict(records: Records) -> None:
    """An id can be stored once."""
    record = a_record()
    await records.add(record)
    with pytest.raises(Conflict) as caught:
        await records.add(record)
    assert caught.value.code == "id_taken"


async def test_a_conflict_fails_its_own_item_only(records: Records) -> None:
    """Of 90 adds at once with 30 keys, exactly one for each key is stored and the others conflict."""
    stored = [a_record() for _ in range(90)]
    entries = [an_entry(record, f"key-{n % 30}") for n, record in enumerate(stored)]
    answers = await asyncio.gather(*map(records.add, stored, entries), return_exceptions=True)
    assert sum(answer is None for answer in answers) == 30
    assert sum(isinstance(answer, Conflict) for answer in answers) == 60
    for record, answer in zip(stored, answers, strict=True):
        assert (await records.get(record.id) is not None) == (answer is None)


async def test_a_row_the_database_cannot_hold_fails_alone(records: Records) -> None:
    """A number beyond 64 bits is that item's error; the others of its group are stored."""
    good = [a_record() for _ in range(10)]
    bad = a_record(width=2**70)
    answers = await asyncio.gather(*map(records.add, [*good[:5], bad, *good[5:]]), return_exceptions=True)
    assert [type(answer) for answer in answers if answer is not None] == [OverflowError]
    assert [await records.get(record.id) for record in good] == good


async def test_an_entry_for_a_picture_that_is_not_there_is_refused(records: Records) -> None:
    """An idempotency key never points to nothing."""
    with pytest.raises(Conflict):
        await records.add(a_record(), an_entry(a_record(), "key-1"))
    assert await records.find_idempotent("shop", "key-1") is None


async def test_adds_at_once_share_commits(records: Records) -> None:
    """What is queued together is committed together: 200 adds take far fewer commits."""
    commits = itertools.count()

    def count(_: sa.Connection) -> None:
        next(commits)

    sa.event.listen(sa.Engine, "commit", count)
    try:
        await asyncio.gather(*(records.add(a_record()) for _ in range(200)))
    finally:
        sa.event.remove(sa.Engine, "commit", count)
    assert next(commits) <= 50


async def test_delete_leaves_a_tombstone(records: Records) -> None:
    """A deleted picture keeps its id, when it was deleted, its size and format, and nothing of its prompt."""
    record = a_record(
        request=ImageRequest(
            "a secret garden",
            format="webp",
            width=512,
            negative_prompt="people",
            tracking_id="t",
            etag="e",
            seed=7,
            metadata={"who": "Ada"},
        )
    )
    await records.add(record)
    gone_at = NOW + timedelta(minutes=5)
    assert await records.delete(record.id, gone_at)
    found = await records.get(record.id)
    assert found == attrs.evolve(
        record, request=ImageRequest("(deleted)", format="webp", width=512), deleted_at=gone_at
    )


async def test_delete_is_true_once(records: Records) -> None:
    """Deleting again, or what never was, is False and changes nothing."""
    record = a_record()
    await records.add(record)
    assert await records.delete(record.id, NOW)
    assert not await records.delete(record.id, NOW + timedelta(days=1))
    assert not await records.delete("nobody", NOW)
    found = await records.get(record.id)
    assert found is not None
    assert found.deleted_at == NOW


async def test_of_many_deletes_at_once_one_is_true(records: Records) -> None:
    """Exactly one of several concurrent deletes of a picture learns that it did it."""
    record = a_record()
    await records.add(record)
    answers = await asyncio.gather(*(records.delete(record.id, NOW) for _ in range(20)))
    assert sorted(answers) == [False] * 19 + [True]


async def test_a_deleted_prompt_is_nowhere_in_the_files(records: Records, path: Path) -> None:
    """Erasure overwrites: after `close` no file of the database holds the words."""
    record = a_record(request=ImageRequest("xylophone " * 300, metadata={"who": "xylophone"}))
    await records.add(record)
    await records.delete(record.id, NOW)
    await records.close()
    for file in path.parent.iterdir():
        assert b"xylophone" not in file.read_bytes()


def _say_xylophone(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir() if b"xylophone" in file.read_bytes()]


async def test_a_deleted_prompt_is_in_no_file_though_the_database_is_open(
    records: Records, path: Path
) -> None:
    """When `delete` returns, the words are out of the write-ahead log too."""
    record = a_record(request=ImageRequest("xylophone " * 300, metadata={"who": "xylophone"}))
    await records.add(record)
    assert _say_xylophone(path)
    await records.delete(record.id, NOW)
    assert _say_xylophone(path) == []


@pytest.mark.parametrize("chance", ["the next delete", "close"])
async def test_a_reader_elsewhere_delays_erasure_and_fails_nothing(
    records: Records, path: Path, chance: str
) -> None:
    """While another process reads, the log keeps the words; the next chance takes them out."""
    record = a_record(request=ImageRequest("xylophone"))
    await records.add(record)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM images").fetchone()
    assert await records.delete(record.id, NOW)
    assert "records.sqlite-wal" in _say_xylophone(path)
    await records.add(a_record())  # writing goes on meanwhile
    reader.execute("COMMIT")
    if chance == "close":
        await records.close()  # the reader still has the file open: SQLite itself would keep the log
    else:
        await records.delete("nobody", NOW)
    assert _say_xylophone(path) == []
    reader.close()


def test_what_a_killed_process_deleted_is_erased_at_the_next_start(path: Path) -> None:
    """A kill right after a delete's commit leaves words in the log; opening takes them out."""
    done = _run(f"""
        import asyncio, os, pathlib, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from blossom_async.gateway.storage.records import store as module
        from blossom_async.models import ImageRequest
        from test_records import NOW, a_record
        def die(engine):
            os._exit(9)
        async def main():
            records = module.Records(pathlib.Path({str(path)!r}))
            await records.open()
            module.Sqlite.purge = die  # a kill between commit and checkpoint
            record = a_record(request=ImageRequest("xylophone"))
            await records.add(record)
            await records.delete(record.id, NOW)
        asyncio.run(main())
    """)
    assert done.returncode == 9, done.stderr
    assert _say_xylophone(path)

    async def open_and_look() -> list[str]:
        records = Records(path)
        await records.open()
        try:
            return _say_xylophone(path)
        finally:
            await records.close()

    assert asyncio.run(open_and_look()) == []


async def test_the_database_needs_no_more_files_once_it_is_open(records: Records) -> None:
    """Every thread that asks it has its connection from the start."""
    record, began, end = a_record(), threading.Event(), threading.Event()

    def occupy(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT 1"))
        began.set()
        assert end.wait(LIMIT_S)

    with no_files_left():
        await records.add(record)
        busy = asyncio.create_task(records.read(occupy))  # one reader
        await asyncio.to_thread(began.wait, LIMIT_S)
        assert await records.get(record.id) == record  # the other
        end.set()
        await busy
        assert await records.study(lambda connection: connection.scalar(sa.text("SELECT 1"))) == 1


async def test_a_locked_database_says_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that waited in vain for another program's lock is Overloaded with `retry_after_s`."""
    monkeypatch.setattr("blossom_async.gateway.storage.records.sqlite._BUSY_TIMEOUT_S", 0.05)  # not 10 s
    records = Records(tmp_path / "records.sqlite")
    await records.open()
    other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Overloaded, match=r"locked by another program.*in 5 s") as caught:
        await records.add(a_record())
    other.close()
    await records.close()
    assert (caught.value.code, caught.value.retry_after_s) == ("storage_failed", 5.0)


async def test_a_cancelled_caller_harms_no_other(records: Records) -> None:
    """Callers that are cancelled while they wait do not fail the adds they were queued with."""
    kept = [a_record() for _ in range(20)]
    given_up = [asyncio.ensure_future(records.add(a_record())) for _ in range(20)]
    waiting = asyncio.gather(*map(records.add, kept))
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    await waiting
    await asyncio.gather(*given_up, return_exceptions=True)
    assert [await records.get(record.id) for record in kept] == kept


async def test_several_event_loops_may_ask(records: Records) -> None:
    """Each question is answered in the loop it came from."""
    record = a_record()
    await records.add(record)
    assert await asyncio.to_thread(lambda: asyncio.run(records.get(record.id))) == record


async def test_a_loop_that_is_gone_harms_no_other(records: Records, path: Path) -> None:
    """An answer whose event loop was closed meanwhile is dropped; its change is made, the others' too."""
    left_behind, kept = a_record(), a_record()

    async def ask_and_leave() -> None:
        asking = asyncio.ensure_future(records.add(left_behind))
        await asyncio.sleep(0)
        assert not asking.done()

    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # so that nothing is answered before the loop is gone
    await asyncio.to_thread(lambda: asyncio.run(ask_and_leave()))
    other.execute("COMMIT")
    other.close()
    await records.add(kept)
    assert await records.get(left_behind.id) == left_behind
    assert await records.get(kept.id) == kept


async def test_close_commits_what_was_handed_in(path: Path) -> None:
    """Adds that were queued when `close` was called are answered and stored."""
    records = Records(path)
    await records.open()
    stored = [a_record() for _ in range(700)]  # more than one group
    adds = [asyncio.ensure_future(records.add(record)) for record in stored]
    await asyncio.sleep(0)
    await records.close()
    assert await asyncio.gather(*adds) == [None] * 700
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (700,)
    connection.close()


async def test_use_after_close_is_an_error(records: Records) -> None:
    """A closed database answers with an error at once, never by waiting."""
    await records.close()
    with pytest.raises(RuntimeError, match="not open"):
        await records.get("x")


async def test_close_may_be_called_twice(records: Records) -> None:
    """The second `close` does nothing."""
    await records.close()
    await records.close()


async def test_two_openers_of_one_file_see_each_other(records: Records, path: Path) -> None:
    """What one has acknowledged, the other reads."""
    other = Records(path)
    await other.open()
    record = a_record()
    await records.add(record)
    assert await other.get(record.id) == record
    assert await other.delete(record.id, NOW)
    found = await records.get(record.id)
    assert found is not None
    assert found.deleted_at == NOW
    await other.close()


async def test_an_add_waits_for_another_process_that_writes(records: Records, path: Path) -> None:
    """A write lock held elsewhere delays an add and does not fail it; reads go on meanwhile."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    record = a_record()
    add = asyncio.ensure_future(records.add(record))
    assert await records.get(record.id) is None
    assert not add.done()
    other.execute("COMMIT")
    other.close()
    await add
    assert await records.get(record.id) == record


async def test_commits_survive_a_power_cut_by_configuration(records: Records) -> None:
    """The writer runs in WAL with synchronous=FULL: NORMAL loses acknowledged commits in a power cut."""
    with records._database.writing.connect() as connection:
        settings_ = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        ]
    assert settings_ == ["wal", 2]


@pytest.mark.campaign
def test_several_first_starts_at_once_all_succeed(path: Path) -> None:
    """Processes that create the same database at the same moment all end with an open one."""
    code = f"""
        import asyncio, pathlib, sys
        from blossom_async.gateway.storage.records import Records
        async def main():
            records = Records(pathlib.Path({str(path)!r}))
            print("ready", flush=True)
            sys.stdin.readline()
            await records.open()
            await records.close()
        asyncio.run(main())
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    pipe = subprocess.PIPE
    starts = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for start in starts:
        assert start.stdout is not None
        assert start.stdout.readline() == "ready\n"
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("\n")
        start.stdin.flush()
    outcomes = [start.communicate(timeout=LIMIT_S) for start in starts]
    assert [start.returncode for start in starts] == [0] * 4, outcomes


def _run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.campaign
def test_a_forgotten_close_does_not_hang_the_exit(path: Path) -> None:
    """A program that never closes its records still ends, and what was acknowledged is stored."""
    done = _run(f"""
        import asyncio, pathlib, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from blossom_async.gateway.storage.records import Records
        from test_records import a_record
        async def main():
            global records
            records = Records(pathlib.Path({str(path)!r}))
            await records.open()
            await records.add(a_record())
        asyncio.run(main())
    """)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_new_or_a_current_database_needs_no_alembic(is_new: bool, path: Path) -> None:
    """Alembic costs 100 ms; it is imported for a migration and at no other time."""
    if not is_new:
        records = Records(path)
        await records.open()
        await records.close()
    done = _run(f"""
        import asyncio, pathlib, sys
        from blossom_async.gateway.storage.records import Records
        async def main():
            records = Records(pathlib.Path({str(path)!r}))
            await records.open()
            await records.close()
        asyncio.run(main())
        print("alembic" in sys.modules)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


async def test_migrating_leaves_logging_alone_and_prints_nothing(path: Path) -> None:
    """A migration adds no log handler, changes no level and writes to no terminal."""
    records = Records(path)
    await records.open()
    await records.close()
    taken_back(path, "0004")
    done = _run(f"""
        import asyncio, logging, pathlib
        from blossom_async.gateway.storage.records import Records
        async def main():
            records = Records(pathlib.Path({str(path)!r}))
            await records.open()
            await records.close()
        asyncio.run(main())
        assert logging.getLogger().handlers == []
        assert logging.getLogger("alembic").level == logging.NOTSET
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_list_of_revisions_is_that_of_the_files() -> None:
    """`migrations.REVISIONS` names every step, oldest first, and `HEAD` is Alembic's head."""
    config = Config()
    config.set_main_option("script_location", "blossom_async.gateway:migrations")
    script = ScriptDirectory.from_config(config)
    steps = [step.revision for step in script.walk_revisions()][::-1]
    assert tuple(steps) == migrations.REVISIONS
    assert script.get_current_head() == migrations.HEAD


async def _refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await Records(path).open()
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


async def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    """A data folder below a file: one line that names the path and says to choose another folder."""
    (tmp_path / "file").touch()
    assert "Choose a data folder" in await _refusal(tmp_path / "file" / "data" / "records.sqlite")


async def test_a_file_that_is_no_database_is_a_configuration_error(tmp_path: Path) -> None:
    """Some other file in the place of the database is refused and left as it is."""
    path = tmp_path / "records.sqlite"
    path.write_bytes(b"holiday pictures, do not touch. " * 200)
    assert "is not a database" in await _refusal(path)
    assert path.read_bytes() == b"holiday pictures, do not touch. " * 200


@pytest.mark.parametrize("numbers", thoroughly(range(40), range(40, 200)), ids=["some", "many"])
def test_a_damaged_database_is_a_configuration_error(path: Path, numbers: range) -> None:
    """Whatever bytes of the schema are wrong, opening ends well or with one line that says so."""

    async def opened_and_closed() -> BaseException | None:
        records = Records(path)
        try:
            await records.open()
        except ConfigurationError as exc:
            return exc
        finally:
            await records.close()
        return None

    asyncio.run(opened_and_closed())
    sound = path.read_bytes()
    refusals = []
    for number in numbers:
        chance = random.Random(number)  # noqa: S311 - the same damage in every run
        damaged = bytearray(sound)
        for _ in range(60):
            damaged[chance.randrange(100, len(sound))] = chance.randrange(256)  # all but the header
        path.write_bytes(damaged)
        refusals.append(asyncio.run(opened_and_closed()))
        for side in (f"{path}-wal", f"{path}-shm"):
            Path(side).unlink(missing_ok=True)
    assert {type(refusal.__cause__) for refusal in refusals if refusal} >= {UnicodeDecodeError}
    assert not [refusal for refusal in refusals if "\n" in str(refusal)]


@pytest.mark.parametrize("left", thoroughly(0, 4096, 20_000))
def test_a_start_on_a_full_disk_says_so(left: int) -> None:
    """On a real file system with no room for the side files the message names the disk, not permissions."""
    code = """
        import asyncio, os, pathlib, sys
        from blossom_async.errors import ConfigurationError
        from blossom_async.gateway.storage.records import Records
        folder, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])
        with open(folder / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                os.truncate(filler.fileno(), filler.tell() - left)
        try:
            asyncio.run(Records(folder / "records.sqlite").open())
        except ConfigurationError as exc:
            print(exc)
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare(1) to mount a small disk with")
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    alone = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", mount, "/mnt"]
    done = subprocess.run(
        [*alone, sys.executable, "-c", textwrap.dedent(code), "/mnt", str(left)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("this machine lets no user mount a small disk")
    assert done.stdout == (
        "The disk that holds the database /mnt/records.sqlite is full. "
        "Make room, or choose another data folder.\n"
    ), done.stderr


async def test_a_newer_database_is_a_configuration_error(records: Records, path: Path) -> None:
    """A schema this program does not know is refused, naming both, instead of being written to."""
    await records.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    message = await _refusal(path)
    assert "9999" in message
    assert migrations.HEAD in message
    assert "Update blossom-async" in message


async def test_another_programs_database_is_a_configuration_error(tmp_path: Path) -> None:
    """A SQLite file with other tables is refused and not turned into ours."""
    path = tmp_path / "records.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    assert "another program" in await _refusal(path)
    assert path.read_bytes() == before


async def test_only_the_owner_can_read_the_database(records: Records, path: Path) -> None:
    """Prompts are private: the database and its side files are mode 0600 in a folder of mode 0700."""
    await records.add(a_record())
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_damaged_database_is_overloaded_not_a_crash(records: Records, path: Path) -> None:
    """A file that breaks while open fails each call with `storage_failed`; the threads live on."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE idempotency")
        connection.execute("DROP TABLE images")
    connection.close()
    for _ in range(2):
        with pytest.raises(Overloaded) as caught:
            await records.add(a_record())
        assert caught.value.code == "storage_failed"
        with pytest.raises(Overloaded):
            await records.get("x")


async def test_errors_do_not_hold_the_prompt(records: Records, path: Path) -> None:
    """What fails in the database names no parameter of the statement: prompts never reach a log."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE idempotency")
        connection.execute("DROP TABLE images")
    connection.close()
    with pytest.raises(Overloaded) as caught:
        await records.add(a_record())
    assert "lighthouse" not in str(caught.value)
    assert "lighthouse" not in str(caught.value.__cause__)
