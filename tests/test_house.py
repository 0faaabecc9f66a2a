"""The shape of the project, held by tests: who imports whom, and which names are public."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import blossom_async

PACKAGE = Path(blossom_async.__file__).parent

MAY_IMPORT = {
    "errors": set(),
    "rules": {"errors"},
    "models": {"errors", "rules"},
    "batch": {"errors", "batch"},
    "transport": {"errors", "models", "batch"},  # of batch only the reading of headers
    "guard": set(),
    "warmup": {"errors", "guard", "models"},
    "cdn": {"models", "transport", "errors"},
    "url_batch": {"cdn", "models", "batch", "transport", "errors"},
    "images": {"cdn", "url_batch", "models", "batch", "transport", "warmup", "guard", "errors"},
    "blocking": {"images", "cdn", "url_batch", "models", "batch", "transport", "warmup", "guard", "errors"},
    "embedded": {"errors", "models", "gateway"},
    "client": {
        "images",
        "cdn",
        "url_batch",
        "blocking",
        "embedded",
        "models",
        "batch",
        "transport",
        "warmup",
        "guard",
        "errors",
    },
    "testing": {"errors", "testing"},
    "gateway": {"models", "errors", "guard", "rules", "batch", "gateway"},
}
"""Room -> rooms it may import. The command line may import all, and only its ``serve`` the gateway."""

OWNERS_ROOMS = {"embedded", "cli.folder", "cli.keys", "cli.serve", "cli.spend", "cli.stats"}
"""Outside of the gateway, those that may reach into it: they run one, or work on its data folder."""

LEAVES = {"access", "analytics", "blobs", "caching", "encoding", "records", "providers"}
"""Rooms of the gateway that take plain values and do not know each other."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path: Path) -> set[str]:
    """Dotted names below ``blossom_async`` that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("blossom_async.") for name in names if name.startswith("blossom_async")}
    return found


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_follow_the_design(name: str, path: Path) -> None:
    """Every module imports only the rooms that its own room may know."""
    room = name.partition(".")[0]
    if room not in MAY_IMPORT:
        return
    strangers = {target for target in imports(path) if target.partition(".")[0] not in MAY_IMPORT[room]}
    assert not strangers, f"{name} imports {sorted(strangers)}"


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name, path in modules() if name.startswith("gateway.")],
    ids=[name for name, _ in modules() if name.startswith("gateway.")],
)
def test_leaves_of_the_gateway_do_not_know_each_other(name: str, path: Path) -> None:
    """A leaf of the gateway imports no other leaf, and no settings."""
    leaf = name.split(".")[1]
    if leaf not in LEAVES:
        return
    inside = {target.split(".")[1] for target in imports(path) if target.startswith("gateway.")}
    assert inside <= {leaf, "migrations"}  # records' own


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_only_embedded_and_serve_reach_into_the_gateway(name: str, path: Path) -> None:
    """Library users never import the gateway by accident."""
    if name.startswith("gateway") or name in {
        "embedded",
        "cli.folder",
        "cli.keys",
        "cli.serve",
        "cli.spend",
        "cli.stats",
    }:
        return
    assert not {target for target in imports(path) if target.startswith("gateway")}


def test_public_names_are_sorted_and_exist() -> None:
    """``blossom_async.__all__`` is sorted and each name can be imported."""
    assert sorted(blossom_async.__all__) == list(blossom_async.__all__)
    for name in blossom_async.__all__:
        assert getattr(blossom_async, name) is not None


def test_public_names_are_these() -> None:
    """The public names change only on purpose."""
    assert set(blossom_async.__all__) == {
        "BatchOptions", "BlossomClient", "BlossomError", "ConfigurationError", "Conflict",
        "Estimate", "Explanation", "Gone", "ImageInfo", "ImageOptions", "ImageRequest", "InvalidRequest",
        "NotFound", "NotRun", "Outcome", "Overloaded", "PaymentRequired", "PermissionDenied",
        "PreloadReport", "PreloadResult", "Progress", "ProviderFailed", "RateLimit", "RateLimited",
        "Rejected", "ResponseError", "RetryPolicy", "ServerFailed", "StaleConnection", "TimedOut",
        "TransportError", "Unauthenticated", "UrlBatch", "UrlStats",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["blossom_async.batch", "blossom_async.errors", "blossom_async.models", "blossom_async.images"]
)
def test_every_module_says_what_it_offers(name: str) -> None:
    """``__all__`` of a module names things that are there."""
    module = importlib.import_module(name)
    assert module.__all__
    assert all(hasattr(module, public) for public in module.__all__)


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
