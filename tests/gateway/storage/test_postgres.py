"""A database on a server that cannot be used is refused in words, before anything is stored."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa

from blossom_async.errors import ConfigurationError, Overloaded
from blossom_async.gateway.storage.leases import Lease
from blossom_async.gateway.storage.records import Records
from blossom_async.gateway.storage.records.postgres import Postgres
from blossom_async.gateway.storage.records.tables import owners
from tests.conftest import running_gateway
from tests.gateway.storage.test_records import a_record
from tests.postgres import PostgresServer, missing, running_server
from tests.waiting import until, wait_until


def said(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


async def test_a_read_only_server_is_refused(postgres_url: str) -> None:
    """As a replica is; the primary has another address."""
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    said(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(ConfigurationError, match=r"is read-only\. Name the primary server"):
        await Records(postgres_url).open()


async def test_a_newer_versions_database_is_refused(postgres_url: str) -> None:
    """Those that are running go on with it; an older version does not start on it."""
    said(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match=r"has schema '9999'.*Update blossom-async"):
        await Records(postgres_url).open()


@contextmanager
def role(url: str) -> Iterator[tuple[str, str]]:
    """A role of its own that may read and write the database, and the URL with it."""
    name = f"role_{sa.make_url(url).database}"
    said(url, f"CREATE ROLE {name} LOGIN IN ROLE pg_read_all_data, pg_write_all_data")
    yield name, url.replace("postgres@", f"{name}@")
    said(url, f"DROP ROLE {name}")


async def test_a_server_with_too_few_connections_is_refused(postgres_url: str) -> None:
    """Whichever thread goes without one; the lease asks last."""
    with role(postgres_url) as (name, url):
        for given in range(3, 7):
            said(postgres_url, f"ALTER ROLE {name} CONNECTION LIMIT {given}")
            with pytest.raises(ConfigurationError, match="too many connections for role"):
                await opened_and_closed(url)
        said(postgres_url, f"ALTER ROLE {name} CONNECTION LIMIT 7")
        await opened_and_closed(url)


async def test_callers_are_not_told_where_the_database_is(postgres_url: str) -> None:
    """Nor who logs in there: whoever reaches the gateway, or asks ``/readyz``, reads these words."""
    with role(postgres_url) as (name, url):
        records = Records(url)
        await records.open()
        said(postgres_url, f"ALTER ROLE {name} NOLOGIN")
        said(postgres_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename ~ '^role'")
        with pytest.raises(Overloaded) as caught:
            await records.get("any")
        assert caught.value.detail == (
            "The database could not be read (it cannot be reached); send the request again in 1 s."
        )
        await records.close()


async def opened_and_closed(url: str) -> None:
    """What a gateway opens, in its order."""
    records, lease = Records(url), Lease(url)
    await records.open()
    try:
        lease.open()
    finally:
        lease.close()
        await records.close()


@contextmanager
def pool(url: str, mode: str) -> Iterator[str]:
    """The URL of the same database behind PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is missing: apt-get install pgbouncer")
    database, server = sa.make_url(url).database, sa.make_url(url).query["host"]
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root, as the server does
    with tempfile.TemporaryDirectory(prefix="blossom-pool-") as folder:
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={server} user=postgres\n[pgbouncer]\nauth_type = any\n"
            f"pool_mode = {mode}\nunix_socket_dir = {folder}\nlisten_port = 6432\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        Path(folder).chmod(0o777)
        process = subprocess.Popen([program, "-q", str(settings)], user=user, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: (Path(folder) / ".s.PGSQL.6432").exists() or process.poll() is not None)
            yield f"postgresql+psycopg://postgres@/{database}?host={folder}&port=6432"
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_pool_that_shares_connections_is_refused(mode: str, postgres_url: str) -> None:
    """One that gives each connection its own is not."""
    with pool(postgres_url, mode) as url:
        records = Records(url)
        if mode == "transaction":
            with pytest.raises(
                ConfigurationError, match=r"behind a pooler in transaction mode.*Name the server"
            ):
                await records.open()
        else:
            await records.open()
            await records.add(a_record())
            await records.close()


async def test_a_server_that_turns_read_only_serves_and_refuses(tmp_path: Path, postgres_url: str) -> None:
    """As after a switch to a standby. It makes pictures again as soon as it can be written to."""
    database = sa.make_url(postgres_url).database
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")

    def turn(read_only: str) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql(
                f"ALTER DATABASE {database} SET default_transaction_read_only = {read_only}"
            )
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    shared: Any = {"database_url": postgres_url, "signing_secrets": ("a-secret-that-both-gateways-know",)}
    async with running_gateway(tmp_path / "data", **shared) as gateway, aiohttp.ClientSession() as session:

        async def status(path: str) -> int:
            async with session.get(path if "://" in path else f"{gateway.base_url}{path}") as answer:
                return answer.status

        async def ready() -> bool:
            return await status("/readyz") == 200

        async with gateway.client(retry=None) as client:
            made = await client.image.generate_url("a lake", width=32, height=32)
            await asyncio.to_thread(turn, "on")

            async def unready() -> bool:
                return not await ready()

            await until(unready)

            async def refused() -> bool:
                with pytest.raises(Overloaded) as caught:
                    await client.image.generate_url("a fox", width=32, height=32)
                return "read-only" in caught.value.detail

            await until(refused)  # first it says that connections were lost
            assert await status(made) == 200
            await asyncio.to_thread(turn, "off")
            await until(ready)
            await client.image.generate_url("a fox", width=32, height=32)
    engine.dispose()


@contextmanager
def slow_to_write() -> Iterator[PostgresServer]:
    """A server that does not write by itself what nobody waits for."""
    if (reason := missing("18")) is not None:
        pytest.skip(reason)
    with running_server("18") as server:
        server.create("crash")
        engine = sa.create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET wal_writer_delay = '10s'")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        engine.dispose()
        yield server


@pytest.mark.campaign
async def test_what_was_acknowledged_outlasts_a_crash() -> None:
    """Of a group of changes only the last commit waits for the disk, and it does so for all."""
    with slow_to_write() as server:
        records = Records(server.url("crash"))
        await records.open()
        pictures = [a_record(id=f"{number:022}") for number in range(300)]
        await asyncio.gather(*map(records.add, pictures))
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
        assert None not in [await records.get(picture.id) for picture in pictures]
        await records.close()


@pytest.mark.campaign
async def test_what_another_process_is_about_to_be_told_outlasts_a_crash_once_it_was_settled() -> None:
    """It is seen before it is on the disk; who passes it on waits for that first."""
    with slow_to_write() as server:
        records = Records(server.url("crash"))
        await records.open()
        engine = sa.create_engine(server.url("crash"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("SET synchronous_commit = off")
            connection.exec_driver_sql("INSERT INTO owners VALUES ('seen', 0)")
        engine.dispose()
        seen = sa.select(owners.c.name)
        assert await records.read(lambda connection: connection.scalar(seen)) == "seen"
        await records.settled()
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
        assert await records.read(lambda connection: connection.scalar(seen)) == "seen"
        await records.close()


@pytest.mark.campaign
def test_a_group_whose_last_change_fails_outlasts_a_crash() -> None:
    """Those before it are waited for all the same."""
    with slow_to_write() as server:
        database = Postgres(sa.make_url(server.url("crash")))
        database.prepare()

        def store(connection: sa.Connection) -> None:
            connection.exec_driver_sql("INSERT INTO owners VALUES ('first', 0)")

        def fail(_: sa.Connection) -> None:
            raise ValueError

        stored, failed = database.apply([store, fail])
        assert (stored, type(failed)) == (None, ValueError)
        server.stop("immediate")
        server.start()
        database.reading.dispose()
        with database.reading.connect() as connection:
            assert connection.scalar(sa.select(owners.c.name)) == "first"
        for engine in (database.writing, database.reading):
            engine.dispose()


def test_a_crash_amid_a_group_is_no_acknowledgement_of_what_came_before() -> None:
    """The server is back when the next change is made, without the one that nobody waited for."""
    with slow_to_write() as server:
        database = Postgres(sa.make_url(server.url("crash")))
        database.prepare()
        crashes = [1]

        def store(connection: sa.Connection) -> None:
            connection.exec_driver_sql("INSERT INTO owners VALUES ('first', 0)")

        def crash(connection: sa.Connection) -> None:
            if crashes:
                crashes.pop()
                server.stop("immediate")
                server.start()
            connection.exec_driver_sql("INSERT INTO owners VALUES ('second', 0)")

        answers = database.apply([store, crash])
        database.reading.dispose()
        with database.reading.connect() as connection:
            stored = set(connection.scalars(sa.text("SELECT name FROM owners")))
        for name, answer in zip(("first", "second"), answers, strict=True):
            assert isinstance(answer, Overloaded) or name in stored
        for engine in (database.writing, database.reading):
            engine.dispose()
