"""What was acknowledged is there after a kill, and a full disk is an answer, not a loss."""

import asyncio
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.records import Records
from tests.waiting import LIMIT_S

KILLS = 20

_COMMON = """
import asyncio, hashlib, os, pathlib, resource, secrets, string, sys
from datetime import UTC, datetime
from blossom_async.errors import Overloaded
from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.records import IdempotencyEntry, ImageRecord, Records, StoredFile
from blossom_async.models import ImageRequest

folder = pathlib.Path(sys.argv[1])
base62 = string.digits + string.ascii_letters

def a_record(data, prompt="x"):
    return ImageRecord(
        id="".join(secrets.choice(base62) for _ in range(22)), tenant="main", width=1024, height=1024,
        request=ImageRequest(prompt, seed=1), provider="p", model="m", seed=1,
        files=(StoredFile(format="png", sha256=hashlib.sha256(data).hexdigest(), file_size=len(data)),),
        cost=1, created_at=datetime.now(UTC), expires_at=None)

async def opened():
    records, blobs = Records(folder / "records.sqlite"), LocalBlobs(folder / "images")
    await records.open()
    await blobs.open()
    return records, blobs
"""

# The imports are done once; each round is a fork that stores pictures until it is killed.
_STORE_UNTIL_KILLED = """
async def store():
    records, blobs = await opened()
    async def one_after_another():
        while True:
            data = secrets.token_bytes(secrets.randbelow(60_000) + 1)
            record = a_record(data)
            await blobs.put(record.id, "png", data)
            entry = IdempotencyEntry(tenant="t", key=record.id, fingerprint="f", image_id=record.id)
            await records.add(record, entry)
            os.write(1, f"stored {record.id} {record.main_file.sha256}\\n".encode())
    await asyncio.gather(*(one_after_another() for _ in range(8)))

while sys.stdin.readline():
    child = os.fork()
    if not child:
        asyncio.run(store())
    os.write(1, f"child {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def _kill_while_it_stores(folder: Path) -> dict[str, str]:
    """SHA-256 by id of everything acknowledged before any of the kills."""
    acknowledged = {}
    command = [sys.executable, "-c", _COMMON + _STORE_UNTIL_KILLED, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for _ in range(KILLS):
            nursery.stdin.write("next\n")
            nursery.stdin.flush()
            child = 0
            left = random.randint(1, 60)  # noqa: S311 - any moment will do
            for line in nursery.stdout:
                match line.split():
                    case ["child", number]:
                        child = int(number)
                    case ["stored", image_id, sha256]:
                        acknowledged[image_id] = sha256
                        left -= 1
                    case _:
                        break
                if left <= 0 and child:
                    os.kill(child, signal.SIGKILL)
                    left = 10**9
        nursery.stdin.close()
    return acknowledged


@pytest.mark.campaign
async def test_everything_acknowledged_survives_kills_and_no_row_lacks_its_bytes(tmp_path: Path) -> None:
    """After 20 SIGKILLs at random moments each acknowledged id has its row, and each row its bytes."""
    acknowledged = await asyncio.to_thread(_kill_while_it_stores, tmp_path)
    assert len(acknowledged) >= KILLS

    records, blobs = Records(tmp_path / "records.sqlite"), LocalBlobs(tmp_path / "images")
    await records.open()
    await blobs.open()
    for image_id, sha256 in acknowledged.items():
        record = await records.get(image_id)
        assert record is not None
        assert record.main_file.sha256 == sha256
        assert await records.find_idempotent("t", image_id) is not None
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        rows = connection.execute("SELECT id, json_extract(files, '$[0].sha256') FROM images").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    assert len(rows) >= len(acknowledged)
    for image_id, sha256 in rows:
        assert hashlib.sha256(await blobs.read(image_id, "png")).hexdigest() == sha256
    await records.close()
    await blobs.close()


_LIMIT_ON_FILES = """
async def main():
    records, blobs = await opened()
    first = a_record(b"")
    await records.add(first)
    size = max(path.stat().st_size for path in folder.glob("records.sqlite*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300_000, resource.RLIM_INFINITY))
    batch = [a_record(b"", prompt="x" * 30_000) for _ in range(64)]
    answers = await asyncio.gather(*map(records.add, batch), return_exceptions=True)
    failed = [answer for answer in answers if answer is not None]
    assert failed, "everything fitted"
    assert all(isinstance(e, Overloaded) for e in failed), failed
    assert {e.code for e in failed} <= {"storage_failed", "storage_full"}, failed
    assert await records.get(first.id) == first
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for record, answer in zip(batch, answers):
        if answer is not None:
            assert await records.get(record.id) is None
            await records.add(record)
        assert await records.get(record.id) == record
    await records.close()
    await blobs.close()
asyncio.run(main())
"""


def _passes(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr


def test_a_database_that_cannot_grow_says_so_and_works_again_afterwards(tmp_path: Path) -> None:
    """A real write error: every waiter gets Overloaded, nothing refused is stored, and later adds work."""
    _passes([sys.executable, "-W", "error", "-c", _COMMON + _LIMIT_ON_FILES, str(tmp_path)])


_FULL_DISK = """
async def main():
    records, blobs = await opened()
    stored = []
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    try:
        await blobs.put(a_record(b"").id, "png", bytes(50_000))
    except Overloaded as exc:
        assert exc.code == "storage_full", exc
    else:
        raise AssertionError("stored on a full disk")
    assert [path for path in (folder / "images").rglob("*") if path.is_file()] == []

    batch = [a_record(b"", prompt="x" * 30_000) for _ in range(64)]
    answers = await asyncio.gather(*map(records.add, batch), return_exceptions=True)
    failed = [answer for answer in answers if answer is not None]
    assert failed, "everything fitted"
    assert all(isinstance(e, Overloaded) and e.code == "storage_full" for e in failed), failed

    filler.unlink()
    for record, answer in zip(batch, answers):
        if answer is not None:
            assert await records.get(record.id) is None
            await records.add(record)
        assert await records.get(record.id) == record
    await blobs.put(record.id, "png", bytes(50_000))
    await records.close()
    await blobs.close()
asyncio.run(main())
"""


def test_a_full_disk_is_storage_full_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    """On a disk without room: `storage_full` for bytes and rows, nothing left behind, then all is well."""
    # A mount of our own that goes away with the child; needs root or unprivileged user namespaces.
    mount = 'mount -t tmpfs -o size=8m tmpfs "$0" && shift 0 && exec "$@"'
    alone = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    try:
        trial = subprocess.run([*alone, str(tmp_path), "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare(1) to mount a small disk with")
    if trial.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {trial.stderr.decode().strip()}")
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(_COMMON + _FULL_DISK), str(tmp_path)]
    _passes([*alone, str(tmp_path), *program])
