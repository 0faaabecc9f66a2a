"""A real cluster of Ray on this machine, for tests: two nodes, small, and gone when the test is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.alone import alone
from tests.waiting import wait_until

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

__all__ = ["processes", "two_nodes"]

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
"""Before Ray is imported: else what ``uv run`` started would start its workers by uv, too, in a copy of
this folder that has none, and they would never come up."""

_MARK = "RAY_OF_BLOSSOM_TESTS"
_MEMORY = 80 * 2**20


@contextmanager
def two_nodes(**head: object) -> Iterator[Cluster]:
    """One CPU each, the least that Ray's scheduler may be given. On leaving, none of its processes is left.

    Enter it in the main thread, as it handles signals.
    """
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_TQDM="0")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": _MEMORY, "include_dashboard": False}
    with alone("ray"):
        os.environ[_MARK] = str(os.getpid())
        cluster = Cluster(initialize_head=True, head_node_args={**node, **head})
        try:
            cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
            del os.environ[_MARK]  # what the test starts itself is none of it
            yield cluster
        finally:
            os.environ.pop(_MARK, None)
            cluster.shutdown()
            wait_until(lambda: not processes())


def processes(name: str = "") -> list[int]:
    """Those of the cluster that this process started whose command begins with a name."""
    mark = f"{_MARK}={os.getpid()}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if mark in environment.split(b"\0") and command.startswith(name.encode()):
            found.append(int(place.name))
    return found
