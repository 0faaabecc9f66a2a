"""The memory that `blossom serve` holds."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")

HEAPS_OF_THREADS = """
import re, threading
from pathlib import Path
from blossom_async.cli.heap import use_one_heap

use_one_heap()
held, together = [], threading.Barrier(4)

def hold():
    held.append(bytes(50_000))
    together.wait()

threads = [threading.Thread(target=hold) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
spans = re.findall(r"^(\\w+)-(\\w+) ---p", Path("/proc/self/maps").read_text(), re.MULTILINE)
print(sum(32 << 20 < int(end, 16) - int(start, 16) <= 64 << 20 for start, end in spans))
"""


def heaps_of_threads(**environment: str) -> int:
    """How many of them a process has: glibc reserves 64 MiB of addresses for each."""
    ran = subprocess.run(
        [sys.executable, "-c", HEAPS_OF_THREADS],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ran.stdout)


def test_threads_have_no_heaps_of_their_own() -> None:
    """Else each would keep the room of the largest picture that it ever held."""
    assert heaps_of_threads() == 0


def test_the_users_own_choice_holds() -> None:
    """One who sets glibc's variable knows better."""
    assert heaps_of_threads(MALLOC_ARENA_MAX="8") > 0


def test_the_collector_does_not_look_through_what_is_loaded() -> None:
    """A full collection of the gateway's modules would hold up every call for a tenth of a second."""
    loaded = "import asyncio, gc; from blossom_async.cli.heap import keep_what_is_loaded as keep; keep()"
    ran = subprocess.run(
        [sys.executable, "-c", f"{loaded}; print(len(gc.get_objects()))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ran.stdout) < 1000
