"""What the tests share: a real gateway on a free port of loopback, and clients of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import aiohttp
import aioresponses.core
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.internal.conjecture import providers
from hypothesis.strategies import none

from blossom_async import BlossomClient
from blossom_async.gateway.server import listen, serving
from blossom_async.gateway.settings import Settings
from blossom_async.gateway.storage.records import Records
from tests.postgres import VERSIONS, Servers
from tests.thorough import thoroughly

_OF_THE_TESTS = {"BLOSSOM_TEST_FUZZ", "BLOSSOM_TEST_KILLS"}  # how much is tried, where one run is not enough
KEY = "a-key-of-the-tests-0123456789"


def _files_named(config: pytest.Config) -> int:
    """How many files the command line names, or tests in them; 0 if it names a folder or nothing."""
    places = {Path(argument.partition("::")[0]) for argument in config.args}
    return len(places) if all(place.is_file() for place in places) else 0


def pytest_configure(config: pytest.Config) -> None:
    """Leaves campaigns out of a run of everything; ``-m`` and the names of files have them run."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as what a shell starts in the background does
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as in what nohup starts
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if not config.option.markexpr and not _files_named(config):
        config.option.markexpr = "not campaign"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than cores, as tests often wait; for one file this process alone, for ``-s`` and ``--pdb``."""
    return 0 if _files_named(config) == 1 else 1 + (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Keeps the garbage collector from looking again and again at what is imported, which stays."""
    gc.disable()
    try:
        _import_own_share(session.config)
        return (yield)
    finally:
        _nothing_drawn()  # Hypothesis looks for who holds its generators, and would not find what is frozen
        gc.freeze()
        gc.set_threshold(5_000)  # each test leaves a little, of which most goes without being looked for
        gc.enable()


@given(none())
def _nothing_drawn(nothing: None) -> None:
    pass


def _import_own_share(config: pytest.Config) -> None:
    """Has each worker of a whole run import other files first: a fresh clone compiles each just once."""
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args != config.getini("testpaths"):
        return
    here = Path(__file__).parent
    files = sorted(here.rglob("test_*.py"))
    for path in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        with suppress(Exception, pytest.skip.Exception):  # pytest tells what it was when it imports the file
            import_module(".".join(path.relative_to(here.parent).with_suffix("").parts))


# A machine may be as slow as it is. A run tries what the last one tried, unless it is to look for more; the
# constants that are drawn would depend on the modules that other tests have imported.
settings.register_profile(
    "thorough",
    deadline=None,
    derandomize="BLOSSOM_TEST_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=100,
)
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=25)
settings.load_profile("thorough" if "BLOSSOM_TEST_FUZZ" in os.environ else "quick")
if "BLOSSOM_TEST_FUZZ" not in os.environ and hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = type(providers._local_constants)


_numbers = count()


def _data_dir(request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Path:
    """A data folder for one test. ``tmp_path`` is not made for it, as most tests store nothing."""
    if "tmp_path" in request.fixturenames:
        folder: Path = request.getfixturevalue("tmp_path")
        return folder / "data"
    return factory.getbasetemp() / f"data-{next(_numbers)}"


@pytest.fixture(autouse=True)
def own_machine(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """No test sees the user's settings, data folder, port or kind of terminal, or another test's log."""
    for name in os.environ:
        if name.startswith("BLOSSOM_") and name not in _OF_THE_TESTS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("BLOSSOM_DATA_DIR", str(_data_dir(request, tmp_path_factory)))
    monkeypatch.setenv("BLOSSOM_PORT", "0")
    monkeypatch.setenv("TERM", "xterm")
    root, ours = logging.getLogger(), logging.getLogger("blossom_async")
    before, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.setLevel(level)
    ours.setLevel(our_level)
    for handler in root.handlers[:]:  # such as that of ``serve``
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest) -> None:
    """Each test waits before another attempt, a random time, as long in every run."""
    random.seed(request.node.nodeid)


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Servers]:
    """PostgreSQL servers, each started by the first test that needs it."""
    with ExitStack() as held:
        yield Servers(held)


@pytest.fixture(params=thoroughly(*VERSIONS))
def postgres_url(request: pytest.FixtureRequest, postgres_servers: Servers) -> str:
    """The URL of a fresh database on PostgreSQL; in the campaigns on each version."""
    return postgres_servers.fresh(request.param)


@pytest.fixture(params=["sqlite", *thoroughly(*(f"postgresql-{version}" for version in VERSIONS))])
def place(request: pytest.FixtureRequest, tmp_path: Path, postgres_servers: Servers) -> Path | str:
    """A fresh database of each kind, as ``Records`` takes it."""
    version = request.param.partition("-")[2]
    return postgres_servers.fresh(version) if version else tmp_path / "records.sqlite"


@attrs.frozen
class RunningGateway:
    """A gateway that listens, and where."""

    base_url: str
    data_dir: Path
    api_key: str = KEY

    def client(self, **options: object) -> BlossomClient:
        """A client of it."""
        return BlossomClient(self.base_url, api_key=self.api_key, **options)  # type: ignore[arg-type]


@cache
def _empty_database() -> bytes:
    """The file of a gateway that has made no picture."""

    async def build(path: Path) -> None:
        records = Records(path)
        await records.open()
        await records.close()

    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as apart:
        built = Path(folder) / "records.sqlite"
        apart.submit(asyncio.run, build(built)).result()
        return built.read_bytes()


def _with_database(data_dir: Path) -> None:
    """Puts an empty database there: a copy is quicker than to build all tables step by step."""
    if not data_dir.exists():
        data_dir.mkdir(mode=0o700, parents=True)
        (data_dir / "records.sqlite").write_bytes(_empty_database())


@asynccontextmanager
async def running_gateway(data_dir: Path, **changes: object) -> AsyncIterator[RunningGateway]:
    """A real gateway in this loop, with these settings. Use it with ``async with`` inside the test."""
    settings = Settings(data_dir=data_dir, **{"api_keys": (KEY,), **changes})  # type: ignore[arg-type]
    _with_database(data_dir)
    async with serving(settings, listen("127.0.0.1", 0)) as base_url:
        yield RunningGateway(base_url, data_dir)


@pytest.fixture
def gateway(tmp_path: Path) -> AbstractAsyncContextManager[RunningGateway]:
    """``async with gateway as running:`` - entered in the test's own task."""
    return running_gateway(tmp_path / "data")


class _Answer(aiohttp.ClientResponse):
    """aioresponses builds responses without the ``stream_writer`` that aiohttp 3.14 and later require."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]


aioresponses.core.ClientResponse = _Answer  # type: ignore[attr-defined]
