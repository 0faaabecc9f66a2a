"""The shape of the project, held by tests: who imports whom, and which names are public."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from inspect import isclass, isfunction
from pathlib import Path

import pytest

import blossom_async

PACKAGE = Path(blossom_async.__file__).parent

MAY_IMPORT = {
    "errors": set(),
    "guard": set(),
    "headers": set(),
    "proxies": {"errors", "guard"},
    "locks": {"errors"},
    "tracing": set(),
    "scenery": set(),
    "rules": set(),
    "notebook": {"errors", "batch"},
    "models": {"errors", "rules", "notebook"},
    "batch": {"errors", "locks"},
    "testing": {"errors"},  # not the gateway: people use it in tests of their own
    "transport": {"errors", "headers", "models", "batch", "tracing"},  # of batch only the reading of headers
    "warmup": {"errors", "guard", "headers", "models"},
    "cdn": {"errors", "models", "transport"},
    "downloads": {"errors", "models", "transport"},
    "url_batch": {"errors", "models", "batch", "transport", "cdn", "notebook"},
    "limits": {"batch"},
    "gates": {"batch", "models", "transport"},
    "images": {
        "url_batch",
        "cdn",
        "downloads",
        "guard",
        "limits",
        "models",
        "batch",
        "transport",
        "warmup",
        "errors",
        "tracing",
    },
    "blocking": {"errors", "images", "url_batch", "connection", "models", "batch"},
    "embedded": {"errors", "locks", "gateway"},
    "connection": {"proxies", "batch", "embedded", "limits", "transport", "errors"},
    "client": {
        "cdn",
        "gates",
        "images",
        "blocking",
        "connection",
        "limits",
        "batch",
        "transport",
        "warmup",
        "errors",
    },
    "rows": {
        "gates",
        "blocking",
        "cdn",
        "client",
        "connection",
        "limits",
        "url_batch",
        "models",
        "batch",
        "errors",
    },
    "tables": {"rows"},
    "ray": {"rows", "tables", "batch", "errors"},
    "dask": {"rows", "tables", "batch", "errors"},
    "cli": {
        "client",
        "embedded",
        "models",
        "batch",
        "rows",
        "tables",
        "ray",
        "dask",
        "transport",
        "errors",
        "gateway",
    },
    "__main__": {"cli"},
    "gateway": {
        "proxies",
        "models",
        "errors",
        "guard",
        "headers",
        "locks",
        "rules",
        "batch",
        "scenery",
        "tracing",
    },
    "__init__": {"client", "images", "url_batch", "models", "batch", "errors"},
}
"""Room of the package -> the other rooms it may import. What is missing here may not exist."""

REACH_INTO_THE_GATEWAY = {
    "embedded",
    "cli.doctor",
    "cli.folder",
    "cli.keys",
    "cli.migrate",
    "cli.serve",
    "cli.spend",
    "cli.stats",
}
"""Modules outside of the gateway that may: they run one, or work on its data folder."""

_LOW = {"storage", "http"}
GATEWAY_MAY_IMPORT = {
    "advisories": set(),
    "configured": set(),
    "migrations": set(),
    "providers": set(),
    "http": set(),
    "storage": {"migrations"},
    "settings": {"configured"},
    "callers": _LOW,
    "counting": _LOW,
    "background": {"storage"},
    "making": _LOW | {"providers"},
    "serving": _LOW | {"callers", "counting"},
    "calls": _LOW | {"callers", "counting", "making", "providers", "serving"},
    "dashboard": _LOW | {"callers", "counting", "making"},
    "figures": _LOW | {"background", "callers", "counting", "making", "serving"},
    "moving": _LOW | {"making", "migrations"},
}
GATEWAY_MAY_IMPORT["app"] = set(GATEWAY_MAY_IMPORT)
GATEWAY_MAY_IMPORT["checkup"] = set(GATEWAY_MAY_IMPORT) - {"http"}
GATEWAY_MAY_IMPORT["server"] = {"app", "http", "settings"}
"""Room of the gateway -> the other rooms it may import. One way only: no circle can be built from this."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"), path


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names below ``blossom_async`` that a file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("blossom_async.") for name in names if name.startswith("blossom_async.")}
    return frozenset(found)


MODULES = dict(modules())
IN_THE_GATEWAY = {
    name.removeprefix("gateway."): path for name, path in MODULES.items() if name.startswith("gateway.")
}
RUN_AS_SCRIPTS = re.compile(r"(.*\.)?__main__|gateway\.migrations\..*")  # the last by alembic


def test_a_room_imports_only_what_it_may() -> None:
    """Every module stands in a room of the table, and its imports stay within the room's."""
    for name, path in MODULES.items():
        room = name.partition(".")[0]
        assert room in MAY_IMPORT, f"{name} stands in no room; say in MAY_IMPORT what it may import"
        rooms = {target.partition(".")[0] for target in imports(path)} - {room}
        assert rooms - MAY_IMPORT[room] == set(), name


def test_a_room_of_the_gateway_imports_only_what_it_may() -> None:
    """As above, one floor down."""
    for name, path in IN_THE_GATEWAY.items():
        room = name.partition(".")[0]
        assert room in GATEWAY_MAY_IMPORT, (
            f"{name} stands in no room; say in GATEWAY_MAY_IMPORT what it may import"
        )
        inside = {target.split(".")[1] for target in imports(path) if target.startswith("gateway.")}
        assert inside - {room} - GATEWAY_MAY_IMPORT[room] == set(), name


@pytest.mark.parametrize("table", [MAY_IMPORT, GATEWAY_MAY_IMPORT], ids=["package", "gateway"])
def test_imports_run_one_way(table: dict[str, set[str]]) -> None:
    """The tables hold no circle, and just the rooms that there are."""
    tuple(TopologicalSorter(table).static_order())  # raises CycleError
    rooms = {name.partition(".")[0] for name in (MODULES if table is MAY_IMPORT else IN_THE_GATEWAY)}
    assert set(table) == rooms


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even inside a room, and not even where an import waits in a function."""
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        targets = {target if target in MODULES else target.rpartition(".")[0] for target in imports(path)}
        graph[name] = targets & MODULES.keys() - {name}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which shows the circle


def test_few_reach_into_the_gateway() -> None:
    """Who only calls a gateway never imports one by accident."""
    reach = {
        name
        for name, path in MODULES.items()
        if not name.startswith("gateway") and any(target.startswith("gateway") for target in imports(path))
    }
    assert reach == REACH_INTO_THE_GATEWAY


def test_public_names_are_sorted_and_exist() -> None:
    """``blossom_async.__all__`` is sorted and each name can be imported."""
    assert sorted(blossom_async.__all__) == list(blossom_async.__all__)
    for name in blossom_async.__all__:
        assert getattr(blossom_async, name) is not None


def test_public_names_are_these() -> None:
    """The public names change only on purpose."""
    assert set(blossom_async.__all__) == {
        "BatchOptions", "BlossomClient", "BlossomError", "ConfigurationError", "Conflict",
        "Estimate", "Explanation", "Gone", "ImageInfo", "ImageOptions", "ImagePage", "ImageRequest",
        "InvalidRequest",
        "NotFound", "NotRun", "Outcome", "Overloaded", "PaymentRequired", "PermissionDenied",
        "PreloadReport", "PreloadResult", "Progress", "ProviderFailed", "RateLimit", "RateLimited",
        "Rejected", "ResponseError", "RetryPolicy", "ServerFailed", "StaleConnection", "TimedOut",
        "TransportError", "Unauthenticated", "UrlBatch", "UrlStats",
    }  # fmt: skip


def test_every_module_says_what_it_offers() -> None:
    """``__all__`` names what is there; a module without it has no public names of its own."""
    for name in MODULES:
        if RUN_AS_SCRIPTS.fullmatch(name):
            continue
        module = importlib.import_module(f"blossom_async.{name}".removesuffix(".__init__"))
        offered = getattr(module, "__all__", [])
        assert [public for public in offered if not hasattr(module, public)] == [], name
        own = {
            public
            for public, value in vars(module).items()
            if not public.startswith("_")
            and (isclass(value) or isfunction(value))
            and value.__module__ == module.__name__
        }
        assert own - set(offered) == set(), name


REAL_TIME = {
    "test_ray.py": "as test_dask.py",
    "test_dask.py": "starts in several processes, under a limit in real time",
    "waiting.py": "asks other processes until something is so, and gives up in the end",
    "quickest.py": "CPU time, as a ratio to another call of the same run",
    "batch/test_chaos.py": "a server that answers slowly",
    "gateway/counting/test_analytics.py": "a viewer that reads slowly, whose load time is what is tested",
    "gateway/test_fleet_kills.py": "processes and a database that are away for some seconds",
    "gateway/making/test_paying_kills.py": "processes that are killed after a random time",
    "gateway/making/test_store_away.py": "a store that is killed while calls repeat themselves",
    "gateway/serving/test_cdn.py": "URLs that expire by the clock of a cache",
    "gateway/serving/test_http_checklist.py": "URLs that expired by the clock of a gateway",
}
"""Files of the tests that sleep or read a clock, and why. Others move a clock or wait for events."""

_CLOCKS = {"sleep", "time", "monotonic", "perf_counter", "process_time", "thread_time"}


def spends_real_time(path: Path) -> bool:
    """Whether a file sleeps or reads a clock, other than on a virtual clock."""
    tree = ast.parse(path.read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules = {"time"} if "tests.virtual_clock" in imported else {"time", "asyncio", "anyio", "loop"}
    if imported & {"time", "asyncio", "anyio"}:
        return True  # functions imported by name would not be recognised
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=[ast.Constant(value=0)]):
                pass  # sleep(0) lets other tasks run
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)) if module in modules:
                if name.removesuffix("_ns") in _CLOCKS:
                    return True
            case _:
                pass
    return False


def test_tests_spend_no_real_time() -> None:
    """Only the files named above sleep or measure time: all others run alike on any machine."""
    tests = PACKAGE.parent / "tests"
    found = {str(path.relative_to(tests)) for path in tests.rglob("*.py") if spends_real_time(path)}
    assert found == set(REAL_TIME)


def test_the_package_is_typed() -> None:
    """``py.typed`` lies inside the package, where type checkers look."""
    assert (PACKAGE / "py.typed").is_file()


def test_no_address_of_a_machine_or_registry_is_committed() -> None:
    """Source, docs and settings name no machine's folders and no package index."""
    root = PACKAGE.parent
    suspicious = ("/" + "work/", "/" + "root/", "index-" + "url", "/" + "simple/")
    folders = ("blossom_async", "tests", "docs", "examples", "benchmarks", ".ci")
    files = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    files += [path for path in root.iterdir() if path.suffix in {".md", ".toml"}]
    for path in files:
        if path.suffix in {".pyc", ".png", ".jpg", ".webp"}:
            continue
        text = path.read_text("utf-8")
        assert not [word for word in suspicious if word in text], path


def test_nothing_says_to_install_from_an_index() -> None:
    """Until a version is on one, messages and pages name the checkout: ``pip install '.[gateway]'``."""
    root = PACKAGE.parent
    files = [
        *PACKAGE.rglob("*.py"),
        *root.glob("*.md"),
        *root.glob("docs/**/*.md"),
        *root.glob("examples/**/*.md"),
    ]
    told = re.compile(r"[Ii]nstall\s+(-\S+\s+)*[\"'`]*blossom[-_]async")
    assert [path.name for path in files if told.search(path.read_text("utf-8"))] == []
