"""The ``blossom`` command: in its own process where signals and pipes matter, else inside this one."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import click
import orjson
import pytest
from aiohttp import web
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from blossom_async import ConfigurationError, InvalidRequest
from blossom_async.cli.commands import commands
from blossom_async.cli.failures import sentence
from blossom_async.cli.results import InTurn, JsonLines, Result, Tally
from blossom_async.cli.words import duration, plural, said, say, size
from blossom_async.models import ImageInfo, ImageOptions
from tests.conftest import KEY, RunningGateway
from tests.thorough import thoroughly
from tests.virtual_clock import on_virtual_clock
from tests.waiting import LIMIT_S

BLOSSOM = (sys.executable, "-m", "blossom_async.cli")
TINY = ("--width", "32", "--height", "32")
WHEN = datetime(2026, 11, 22, 14, 23, tzinfo=UTC)
EXAMPLES = Path(__file__).parents[2] / "examples"


@attrs.frozen
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def process(*args: object, stdin: str = "") -> Ended:
    """Runs the command as a process, to its end."""
    ran = subprocess.run(
        [*BLOSSOM, *map(str, args)], input=stdin, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    return Ended(ran.returncode, ran.stdout, ran.stderr)


def blossom(*args: object, **env: str) -> Ended:
    """Runs the command inside this process, which is quicker."""
    ran = CliRunner().invoke(commands, [str(arg) for arg in args], env=env)
    assert isinstance(ran.exception, SystemExit | None), ran.exception
    return Ended(ran.exit_code, ran.stdout, ran.stderr)


def refused(*args: object, says: str) -> None:
    """Asserts that the command says one line, and that with status 2."""
    result = CliRunner().invoke(commands, [str(arg) for arg in args])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert re.search(says, result.stderr), result.stderr
    assert result.stderr.startswith("blossom: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@contextmanager
def running(*args: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command, while it runs."""
    process = subprocess.Popen(
        [*BLOSSOM, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> str:
    """What the process says on stderr until its end."""
    _, err = process.communicate(timeout=LIMIT_S)
    assert "Traceback" not in err, err
    return err


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def told(number: int) -> dict[str, Any]:
    """What a gateway says of a picture."""
    image_id = f"{number:022}"
    return {
        "url": f"http://127.0.0.1:1/image/{image_id}", "id": image_id, "width": 32, "height": 32,
        "format": "png", "file_size": 9, "quality": "standard", "cost": 1,
        "created_at": "2026-11-22T14:23:00Z", "expires_at": None, "time_remaining": None,
        "tracking_id": None, "metadata": {}, "sha256": "0" * 64, "provider": "openai", "model": "m",
        "seed": 7,
    }  # fmt: skip


def result(index: int, *, reused: bool = False) -> Result:
    info = ImageInfo(**{**told(index), "created_at": WHEN})
    return Result(index, f"prompts.txt:{index + 1}", "a lake", info, None, reused=reused)


@asynccontextmanager
async def scripted(answer: Callable[[str], Awaitable[dict[str, Any]]]) -> AsyncIterator[str]:
    """A gateway that answers each prompt with what it is told; gives its address."""

    async def create(request: web.Request) -> web.Response:
        return web.json_response(await answer((await request.json())["prompt"]), status=201)

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"service": "blossom"})

    app = web.Application()
    app.add_routes([web.get("/healthz", health), web.post("/v1/images", create)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def prompts(tmp_path: Path) -> Callable[..., Path]:
    """``prompts("a lake", "a sea")`` is a file with these lines."""

    def write(*texts: str, name: str = "prompts.txt") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
        return path

    return write


Prompts = Callable[..., Path]


class TestHelp:
    """What the command says of itself."""

    def test_help_waits_for_nothing_heavy(self) -> None:
        """``blossom --help`` imports no HTTP, no terminal toolkit and no gateway."""
        code = (
            "import sys\nfrom blossom_async.cli.commands import commands\n"
            "try:\n    commands.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
            "heavy = {'aiohttp', 'anyio', 'asyncio', 'attrs', 'rich', 'rich_click', 'PIL', 'numpy'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=LIMIT_S)

    @pytest.mark.parametrize("missing", ["click", "rich", "rich_click"])
    @pytest.mark.parametrize("arguments", [["url", "--help"], ["batch", "-"]])
    def test_without_the_extra_it_says_what_to_install(self, missing: str, arguments: list[str]) -> None:
        """One line, no traceback."""
        code = (
            f"import sys\nsys.modules[{missing!r}] = None\nsys.argv = ['blossom', *{arguments!r}]\n"
            "from blossom_async.cli import main\nmain()\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            input="",
        )
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr == (
            "blossom: the command line is not installed; pip install '.[cli]' in the checkout\n"
        )

    def test_a_module_of_our_own_that_is_missing_is_a_bug(self) -> None:
        """Not taken for a missing extra."""
        code = (
            "import sys\nsys.modules['blossom_async.errors'] = None\n"
            "from blossom_async.cli import main\nmain()\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert ran.returncode == 1
        assert "Traceback" in ran.stderr

    def test_every_command_is_there_and_has_help(self) -> None:
        """Each stands in the list and explains its options."""
        listed = CliRunner().invoke(commands, ["--help"]).output
        for name in commands.list_commands(click.Context(commands)):
            assert name in listed
            shown = CliRunner().invoke(commands, [name, "--help"], terminal_width=100)
            assert shown.exit_code == 0
            command = commands.get_command(click.Context(commands), name)
            assert command is not None
            for option in command.params:
                if isinstance(option, click.Option):
                    assert option.opts[0] in shown.output
                    assert option.help

    @pytest.mark.parametrize("name", ["batch", "url"])
    def test_every_option_of_a_picture_can_be_given(self, name: str) -> None:
        """What ``ImageRequest`` takes, the command line takes."""
        command = commands.get_command(click.Context(commands), name)
        assert command is not None
        assert set(ImageOptions.__annotations__) <= {param.name for param in command.params}

    def test_without_a_command_it_shows_help(self) -> None:
        """On stderr, since nothing was done."""
        result = process()
        assert (result.status, result.stdout) == (2, "")
        assert "Usage: blossom" in result.stderr

    def test_a_wrong_command_or_option_names_the_nearest(self) -> None:
        """And where to read on."""
        refused("bach", says=r"No such command 'bach'\. Did you mean 'batch'\?.*See blossom --help")
        refused("url", "x", "--widht", "3", says=r"No such option '--widht'.*--width.*See blossom url --help")

    def test_version(self) -> None:
        """One line."""
        assert CliRunner().invoke(commands, ["--version"]).output.startswith("blossom ")


class TestBatch:
    """``blossom batch``."""

    def test_prompts_become_pictures_in_order(self, prompts: Prompts, tmp_path: Path) -> None:
        """The main job: URLs, their file, the page, the sum, and status 0."""
        path = prompts("# three", "a lake at dawn", "", "a stormy sea", "a wood in autumn")
        out, page = tmp_path / "urls.jsonl", tmp_path / "page.html"
        result = process("batch", path, *TINY, "--out", out, "--gallery", page)
        assert result.status == 0
        written = lines(out)
        assert [line["prompt"] for line in written] == ["a lake at dawn", "a stormy sea", "a wood in autumn"]
        assert [line["index"] for line in written] == [0, 1, 2]
        assert list(written[0]) == [
            *(
                "index",
                "prompt",
                "url",
                "id",
                "width",
                "height",
                "format",
                "file_size",
                "cost",
                "seed",
                "error",
            )
        ]
        assert all(line["url"] in result.stdout for line in written)
        assert re.search(r"blossom: 3 of 3 pictures in [0-9.]+ s \([0-9.]+/s\), 3 credits\n", result.stderr)
        assert re.search(r"the pictures are in .*data; their URLs work while `blossom serve", result.stderr)
        text = page.read_text("utf-8")
        assert text.count("data:image/webp") == 3
        assert all(line["url"] in text for line in written)

    def test_json_is_all_there_is_on_stdout(self, prompts: Prompts) -> None:
        """A line for each item in input order, failures too, for programs."""
        path = prompts('"a lake"', '{"prompt": "a sea", "width": 48}', "{", '{"prompt": ""}', name="p.jsonl")
        result = blossom("batch", path, *TINY, "--json")
        assert result.status == 1
        made = [orjson.loads(line) for line in result.stdout.splitlines()]
        assert [line["index"] for line in made] == [0, 1, 2, 3]
        assert [line["width"] for line in made] == [32, 48, None, None]
        assert [bool(line["url"]) for line in made] == [True, True, False, False]
        assert made[2]["error"].startswith("p.jsonl:3: the line is not JSON")
        assert made[3]["error"].startswith("p.jsonl:4: prompt: empty text cannot be used")

    def test_failures_say_where_and_lose_nothing(self, prompts: Prompts, tmp_path: Path) -> None:
        """File, line, value and what is allowed; the rest is made; status 1."""
        path = prompts(
            *("prompt,width,format", "a lake,,", "a sea,-5,", "a wood,1e9,", "a city,,gif", '"x', "a moor,,"),
            name="p.csv",
        )
        out, page = tmp_path / "urls.jsonl", tmp_path / "page.html"
        result = blossom("batch", path, *TINY, "--out", out, "--gallery", page)
        assert result.status == 1
        errors = [line["error"] for line in lines(out)]
        assert [error is None for error in errors] == [True, False, False, False, False, True]
        allowed = "cannot be used; allowed: a whole number of pixels from 16 to 4096"
        assert errors[1] == f"p.csv:3: width: -5 {allowed}"
        assert errors[2] == f"p.csv:4: width: '1e9' {allowed}"
        assert errors[3].startswith("p.csv:5: format: 'gif' cannot be used; allowed: one of jpg, png, webp")
        assert errors[4].startswith("p.csv:6: the line is not CSV")
        assert "2 of 6 pictures" in result.stderr
        assert "2 credits, 4 failed" in result.stderr
        assert "4 prompts failed" in page.read_text("utf-8")

    def test_an_unknown_option_in_jsonl_names_the_nearest(self, prompts: Prompts) -> None:
        """Fail closed: it is not ignored."""
        result = blossom("batch", prompts('{"prompt": "a", "widht": 9}', name="p.jsonl"), "--json")
        assert result.status == 1
        assert "unknown option 'widht'. Did you mean 'width'?" in orjson.loads(result.stdout)["error"]

    def test_a_prompt_of_40000_characters_fails_alone(self, prompts: Prompts) -> None:
        """And is not sent."""
        result = blossom("batch", prompts("a lake", "x" * 40_000), *TINY, "--json")
        assert result.status == 1
        errors = [orjson.loads(line)["error"] for line in result.stdout.splitlines()]
        assert errors[0] is None
        assert "prompts.txt:2: prompt: text of 40,000 characters cannot be used" in errors[1]

    @pytest.mark.campaign
    def test_standard_input_and_limit(self) -> None:
        """``-`` reads prompts as they come, the first ``--limit`` of them."""
        result = process("batch", "-", *TINY, "--json", "--limit", 2, stdin="a lake\na sea\na wood\n")
        assert [orjson.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["a lake", "a sea"]

    def test_options_of_the_picture_and_the_pace(self, prompts: Prompts) -> None:
        """They hold for every item that has none of its own."""
        result = blossom(
            *("batch", prompts("prompt,format", "a lake,", "a sea,webp", name="p.csv"), *TINY),
            *("--json", "--format", "jpg", "--seed", 7, "--quality", "hd", "--metadata", "page=1"),
            *("--rate-limit", "600/min", "--rate-limit", "50/s", "--max-concurrency", 2),
            *("--cdn-prefix", "https://cdn.example.com", "--use-custom-cdn"),
        )
        made = [orjson.loads(line) for line in result.stdout.splitlines()]
        assert [(line["format"], line["seed"], line["cost"]) for line in made] == [
            ("jpg", 7, 2),
            ("webp", 7, 2),
        ]
        assert made[0]["url"] == f"https://cdn.example.com/generated/{made[0]['id']}.jpg"

    def test_a_limit_of_cost_names_itself(self, prompts: Prompts) -> None:
        """As it was typed; what was made within it is listed."""
        result = blossom("batch", prompts("a lake", "a sea", "a wood"), *TINY, "--json", "--max-cost", "1")
        assert result.status == 1
        made = [orjson.loads(line) for line in result.stdout.splitlines()]
        assert [line["url"] is not None for line in made] == [True, False]
        assert "not tried: item 1 may cost 1, and 1 of --max-cost 1" in made[1]["error"]
        assert "stopped: 1 picture in" in result.stderr
        assert (
            "not tried: the rest, because item 1 may cost 1, and 1 of --max-cost 1.0 are spent"
            in result.stderr
        )

    def test_the_table_shows_some_rows_of_many(self, prompts: Prompts) -> None:
        """The first ones and the failures; ``--all`` shows every row."""
        path = prompts(
            "prompt,width", *[f"lake {n},{'x' if n == 38 else ''}" for n in range(40)], name="p.csv"
        )
        result = blossom("batch", path, *TINY)
        assert "lake 0 " in result.stdout
        assert "lake 20 " not in result.stdout
        assert "p.csv:40: width: 'x' cannot be used" in " ".join(result.stdout.split())
        assert "and 27 more; --all shows every row" in result.stdout
        every = blossom("batch", path, *TINY, "--all").stdout
        assert all(f"lake {n} " in every for n in range(40))

    @pytest.mark.parametrize("columns", ["40", "80", "200"])
    def test_no_line_is_wider_than_the_terminal(self, prompts: Prompts, columns: str) -> None:
        """URLs are whole where they fit, and folded where not."""
        result = blossom("batch", prompts("a lake " * 40, "木" * 50), *TINY, COLUMNS=columns)
        assert max(map(len, result.stdout.splitlines())) <= int(columns)
        assert (
            len(re.findall("/image/[0-9A-Za-z]{22}", result.stdout.replace("\n   ", "").replace(" ", "")))
            == 2
        )

    def test_prompts_cannot_steer_the_terminal(self, prompts: Prompts) -> None:
        """Escape sequences and overrides of direction are shown as what they are."""
        result = blossom(
            "batch", prompts("\x1b]0;owned\x07\x1b[2Ja lake \u202eevil", "[red]a sea[/red]"), *TINY
        )
        assert result.status == 0
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", result.stdout + result.stderr)
        assert "[red]a sea[/red]" in result.stdout

    def test_out_replaces_what_an_earlier_run_wrote(self, prompts: Prompts, tmp_path: Path) -> None:
        """But only once there is something to write."""
        out = tmp_path / "urls.jsonl"
        out.write_text("earlier\n")
        path = prompts("a lake")
        assert blossom("batch", path, "--out", out, "--base-url", "http://127.0.0.1:9").status == 2
        assert out.read_text() == "earlier\n"
        assert blossom("batch", path, *TINY, "--out", out).status == 0
        assert [line["prompt"] for line in lines(out)] == ["a lake"]

    @pytest.mark.campaign
    def test_a_person_at_a_terminal_sees_a_bar(self, prompts: Prompts) -> None:
        """Done, failed, and of how many; gone when the sum is said."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*BLOSSOM, "batch", str(prompts(*["a lake"] * 8)), *TINY],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        ) as there:
            os.close(theirs)
            seen = b""
            try:
                while part := os.read(ours, 4096):
                    seen += part
            except OSError:  # Linux says EIO when the other side is closed
                pass
            os.close(ours)
        assert there.returncode == 0
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
        assert "of 8, 0 failed" in shown
        assert "8 of 8 pictures" in shown

    @pytest.mark.campaign
    def test_a_reader_that_has_seen_enough_ends_it_quietly(self, prompts: Prompts) -> None:
        """As ``blossom batch --json | head -1``."""
        with running("batch", prompts(*["a lake"] * 2000), *TINY, "--json") as there:
            assert there.stdout is not None
            there.stdout.readline()
            there.stdout.close()
            assert there.stderr is not None
            assert there.stderr.read() == ""
            assert there.wait(timeout=LIMIT_S) == 141


class TestEncodings:
    """A terminal or a pipe that is not UTF-8."""

    @pytest.mark.parametrize("encoding", thoroughly("ascii", "latin-1", "cp1252"))
    @pytest.mark.parametrize(
        "arguments",
        thoroughly(
            ["url", "木 🦊", *TINY, "--info", "--metadata", "a=木"],
            ["batch", "-", *TINY],
            ["batch", "-", *TINY, "--json"],
        ),
        ids=["url", "table", "json"],
    )
    def test_the_url_comes_whatever_the_encoding(
        self, encoding: str, arguments: list[str], tmp_path: Path
    ) -> None:
        """A letter that the encoding lacks is a question mark; what was paid for is not lost to it."""
        ran = subprocess.run(
            [*BLOSSOM, *arguments], input="a fox 🦊 木\n".encode(), capture_output=True, check=False,
            timeout=LIMIT_S,
            env={**os.environ, "PYTHONIOENCODING": encoding, "BLOSSOM_DATA_DIR": str(tmp_path / "木")},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert b"Traceback" not in ran.stderr
        assert b"/image/" in ran.stdout
        assert b"?" in ran.stderr  # the data folder's name

    @pytest.mark.parametrize("command", [["nonsense 🦊"], ["batch", "木.txt"], ["url", "--help"], ["--help"]])
    def test_messages_come_too(self, command: list[str]) -> None:
        """Usage errors and help are said in any encoding."""
        ran = subprocess.run(
            [*BLOSSOM, *command], capture_output=True, check=False, timeout=LIMIT_S,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert ran.returncode in {0, 2}
        assert b"Traceback" not in ran.stderr
        (ran.stdout + ran.stderr).decode("ascii")


class TestCtrlC:
    """Stopping."""

    @pytest.mark.campaign
    def test_input_that_breaks_midway_costs_nothing_that_was_made(self, tmp_path: Path) -> None:
        """A terminal that goes away: what was read is made and listed, and the error says how it ended."""
        master, slave = pty.openpty()
        out = tmp_path / "urls.jsonl"
        os.write(slave, b"")
        with running("batch", "-", *TINY, "--json", "--out", out, stdin=master) as there:
            os.close(master)
            assert there.stdout is not None
            os.write(slave, b"a lake\na sea\n")
            made = [orjson.loads(there.stdout.readline()) for _ in range(2)]
            os.close(slave)
            said_last = ended(there)
        assert there.returncode == 2
        assert [line["prompt"] for line in made] == ["a lake", "a sea"]
        assert lines(out) == made
        assert "stopped: 2 pictures" in said_last
        assert "the same command goes on from here" in said_last
        assert "blossom: stdin: Input/output error; make it readable, then start again" in said_last

    def test_it_stops_cleanly_and_says_what_is_done(self, prompts: Prompts, tmp_path: Path) -> None:
        """Status 130; every line that was written stays, whole and in order; the page has them too."""
        out, page = tmp_path / "urls.jsonl", tmp_path / "page.html"
        path = prompts(*[f"lake {number}" for number in range(5000)])
        with running("batch", path, *TINY, "--json", "--out", out, "--gallery", page) as there:
            assert there.stdout is not None
            first = there.stdout.readline()
            there.send_signal(signal.SIGINT)
            said_last = ended(there)
        assert there.returncode == 130
        written = lines(out)
        assert written[0] == orjson.loads(first)
        indexes = [line["index"] for line in written]
        assert indexes == sorted(set(indexes))
        assert len(written) < 5000
        assert f"stopped: {len(written):,} picture" in said_last
        assert "blossom serve" in said_last
        assert page.read_text("utf-8").count("<article>") == len(written)

    @pytest.mark.parametrize(("number", "status"), thoroughly((signal.SIGINT, 130), (signal.SIGTERM, 143)))
    async def test_what_came_out_of_turn_is_listed_too(
        self, prompts: Prompts, tmp_path: Path, number: signal.Signals, status: int
    ) -> None:
        """A first picture that takes long costs none of the others, nowhere; SIGTERM is as Ctrl-C."""
        count = 20
        last_begun = asyncio.Event()

        async def answer(prompt: str) -> dict[str, Any]:
            index = int(prompt.rpartition(" ")[2])
            if index == count:
                last_begun.set()
            if index in {0, count}:
                await asyncio.Event().wait()
            return told(index)

        path = prompts(*[f"lake {index}" for index in range(count + 1)])
        out, page = tmp_path / "urls.jsonl", tmp_path / "page.html"
        out.write_text("earlier\n")
        async with scripted(answer) as base_url:
            with running(
                *("batch", path, "--out", out, "--gallery", page, "--all", "--max-concurrency", 2),
                *("--base-url", base_url),
            ) as there:
                async with asyncio.timeout(LIMIT_S):
                    await last_begun.wait()  # with two at once, all between have been answered
                assert out.read_text() == "earlier\n"
                there.send_signal(number)
                shown, said_last = await asyncio.to_thread(there.communicate, timeout=LIMIT_S)
        assert there.returncode == status, said_last
        assert "Traceback" not in said_last
        assert [line["index"] for line in lines(out)] == list(range(1, count))
        assert all(f"{told(index)['id']}" in shown for index in range(1, count))
        assert f"stopped: {count - 1} pictures" in said_last
        assert "the same command goes on from here" in said_last
        assert re.findall('id="p([0-9]+)"', page.read_text("utf-8")) == [f"{n + 1}" for n in range(1, count)]

    async def test_a_first_picture_that_takes_long_holds_memory_constant(self) -> None:
        """No more items are begun than may wait for their turn."""
        turn = InTurn(3)
        for index in (1, 2):
            turn.add(result(index))
        await turn.room(2)
        fourth = asyncio.ensure_future(turn.room(3))
        await asyncio.sleep(0)
        assert not fourth.done()
        turn.add(result(0))
        assert [ready.index for ready in iter(turn.pop, None)] == [0, 1, 2]
        await fourth

    async def test_no_more_is_begun_than_may_wait(
        self, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the first picture is not there, the eighth is the last one begun."""
        monkeypatch.setattr("blossom_async.cli.making._WINDOW", 8)
        eighth, ninth = asyncio.Event(), asyncio.Event()

        async def answer(prompt: str) -> dict[str, Any]:
            index = int(prompt.rpartition(" ")[2])
            if index == 0:
                await eighth.wait()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(ninth.wait(), 0.2)
            if index == 7:
                eighth.set()
            if index == 8:
                ninth.set()
            return told(index)

        path = prompts(*[f"lake {index}" for index in range(12)])
        async with scripted(answer) as base_url:
            args = ("batch", path, "--json", "--max-concurrency", 2, "--base-url", base_url)
            made = (await asyncio.to_thread(blossom, *args)).stdout.splitlines()
        assert [orjson.loads(line)["error"] for line in made] == [None] * 12

    @given(st.permutations(range(8)), st.integers(0, 8))
    def test_every_result_is_handed_on_once_and_in_order(self, arrivals: list[int], stop: int) -> None:
        """Whatever the order in which they come, and when they end."""
        turn = InTurn(8)
        seen = []
        for index in arrivals[:stop]:
            turn.add(result(index))
            seen += [ready.index for ready in iter(turn.pop, None)]
        assert seen == list(range(len(seen)))
        assert seen + [early.index for early in turn.pop_early()] == sorted(arrivals[:stop])

    @pytest.mark.campaign
    def test_it_stops_while_it_waits_for_input(self) -> None:
        """A pipe that says nothing holds nothing up."""
        with running("batch", "-", *TINY, "--json", stdin=subprocess.PIPE) as there:
            assert there.stdin is not None
            assert there.stdout is not None
            there.stdin.write("a lake\n")
            there.stdin.flush()
            assert orjson.loads(there.stdout.readline())["error"] is None
            there.send_signal(signal.SIGINT)
            assert there.wait(timeout=LIMIT_S) == 130
            assert there.stderr is not None
            said_last = there.stderr.read()
            assert "stopped: 1 picture" in said_last
            assert "starts over; with --out or --journal it would go on from here" in said_last


class TestResume:
    """The same command goes on where it was stopped."""

    @pytest.mark.campaign
    def test_what_is_finished_is_not_made_again(self, prompts: Prompts, tmp_path: Path) -> None:
        """After Ctrl-C the second run has every line, the first ones with the URLs they had."""
        out = tmp_path / "urls.jsonl"
        path = prompts(*[f"lake {number}" for number in range(100)])
        with running("batch", path, *TINY, "--json", "--out", out, "--max-concurrency", 1) as there:
            assert there.stdout is not None
            there.stdout.readline()
            there.send_signal(signal.SIGINT)
            assert "the same command goes on from here" in ended(there)
        before = lines(out)
        again = process("batch", path, *TINY, "--json", "--out", out, "--max-concurrency", 1)
        assert again.status == 0
        assert [line["id"] for line in lines(out)][: len(before)] == [line["id"] for line in before]
        assert len(lines(out)) == 100
        assert "had been finished before" in again.stderr

    @pytest.mark.campaign
    def test_killed_at_any_moment_nothing_is_lost(self, prompts: Prompts, tmp_path: Path) -> None:
        """Through kill -9 after kill -9 every line that was written keeps its picture."""
        out = tmp_path / "urls.jsonl"
        path = prompts(*[f"lake {number}" for number in range(400)])
        command = ("batch", path, *TINY, "--json", "--out", out, "--max-concurrency", 4)
        known: dict[int, str] = {}
        for number_of_lines in (1, 60, 7, 90, 30):
            with running(*command) as there:
                assert there.stdout is not None
                for _ in range(number_of_lines):
                    line = orjson.loads(there.stdout.readline())
                    assert known.setdefault(line["index"], line["id"]) == line["id"]
                there.kill()
        assert process(*command).status == 0
        last = {line["index"]: line["id"] for line in lines(out)}
        assert len(last) == 400
        assert known.items() <= last.items()
        stored = list((tmp_path / "data" / "images").glob("*/*.png"))
        assert 400 <= len(stored) <= 400 + 5 * 4, "only what was in flight at a kill may have been made twice"

    def test_another_batch_is_refused(self, prompts: Prompts, tmp_path: Path) -> None:
        """A changed batch does not write over the results of the one on record, and --no-journal does."""
        out = tmp_path / "urls.jsonl"
        assert blossom("batch", prompts("a lake"), *TINY, "--out", out).status == 0
        before = out.read_bytes()
        result = blossom("batch", prompts("a forest"), *TINY, "--out", out)
        assert result.status == 2
        assert "urls.jsonl.journal: item 0 is not the item recorded there" in result.stderr
        assert out.read_bytes() == before
        assert blossom("batch", prompts("a forest"), *TINY, "--out", out, "--no-journal").status == 0
        assert lines(out)[0]["prompt"] == "a forest"

    def test_a_journal_that_was_not_asked_for_says_how_to_do_without(
        self, prompts: Prompts, tmp_path: Path
    ) -> None:
        """Whoever gave only --out need not know what a journal is; whoever named one does."""
        out, journal = tmp_path / "urls.jsonl", tmp_path / "own.journal"
        path = prompts("a lake")
        advice = "; choose another --out, or --no-journal to begin anew"
        assert blossom("batch", path, *TINY, "--out", out, "--journal", journal).status == 0
        assert blossom("batch", path, *TINY, "--out", out).status == 0
        prompts("a forest")
        refused("batch", path, *TINY, "--out", out, says=f"item 0 is not the item recorded there.*{advice}")
        out.with_name("urls.jsonl.journal").write_text("no journal\n")
        refused("batch", path, *TINY, "--out", out, says=f"is not that of a journal.*{advice}")
        named = blossom("batch", path, *TINY, "--out", out, "--journal", journal)
        assert named.status == 2
        assert advice not in named.stderr

    def test_failures_are_tried_again_by_the_same_command(self, prompts: Prompts, tmp_path: Path) -> None:
        """And the command says so, where there is a journal."""
        path = prompts("prompt,width", "a lake,", "a sea,-5", name="p.csv")
        sentence = "the same command tries the failed ones again"
        assert sentence in blossom("batch", path, *TINY, "--out", tmp_path / "u.jsonl").stderr
        assert sentence not in blossom("batch", path, *TINY).stderr

    def test_only_new_pictures_count_for_pace_and_credits(self, prompts: Prompts, tmp_path: Path) -> None:
        """What had been finished before cost nothing now, and took no time."""
        command = ("batch", prompts("a lake", "a sea", "a wood"), *TINY, "--out", tmp_path / "u.jsonl")
        assert blossom(*command, "--limit", 2).status == 0
        page = tmp_path / "page.html"
        again = blossom(*command, "--gallery", page).stderr
        assert re.search(r"3 of 3 pictures, 1 of them new, in [0-9.]+ s \([0-9.]+/s\), 1 credit\n", again)
        assert "2 pictures of these had been finished before" in again
        text = page.read_text("utf-8")
        assert "<dt>Made before</dt><dd>2</dd>" in text
        assert "<dt>Credits</dt><dd>1</dd>" in text

    def test_the_sum_of_a_resumed_run(self) -> None:
        """Rates are of new pictures."""
        tally = Tally(elapsed_s=2.0)
        for index in range(6):
            tally.add(result(index, reused=index < 5))
        assert tally.sentence(ended=True) == "6 of 6 pictures, 1 of them new, in 2.0 s (0.5/s), 1 credit"

    def test_the_bar_has_no_pace_of_pictures_that_were_there(self) -> None:
        """What was in the journal says nothing of how long the rest will take."""
        from rich.console import Console

        from blossom_async.batch import Progress
        from blossom_async.cli.bar import bar

        stderr = io.StringIO()
        with bar(Console(file=stderr, force_terminal=True, width=79), 600) as update:
            for done in (200, 300, 485):
                now = Progress(
                    total=None, done=done, failed=0, not_run=0, running=0, waiting=0, reused=done,
                    elapsed_s=0.1, stopped=None,
                )  # fmt: skip
                update(now)
        assert "485 of 600" in stderr.getvalue()
        assert "/s" not in stderr.getvalue()

    def test_the_bar_says_how_long_the_gateway_has_been_away(self) -> None:
        """Also though nothing ends meanwhile."""
        from rich.console import Console

        from blossom_async.batch import RetryPolicy, run
        from blossom_async.cli.bar import bar

        stderr = io.StringIO()

        async def attempt(item: int) -> int:
            await asyncio.sleep(0.1)
            if asyncio.get_running_loop().time() > 2:
                raise ConnectionResetError
            return item

        async def go() -> None:
            loop = asyncio.get_running_loop()
            with bar(Console(file=stderr, force_terminal=True, width=79), 600) as update:
                options: Any = {"retry": RetryPolicy(), "max_concurrency": 8, "deadline_s": 20}
                batch = loop.create_task(run(attempt, range(600), on_progress=update, **options))
                await asyncio.sleep(15)
            await batch

        on_virtual_clock(go())
        assert "waiting for the gateway, 13 s" in stderr.getvalue()

    def test_lines_of_an_earlier_run_stay_until_the_first_result(self, tmp_path: Path) -> None:
        """Whichever result is the first."""
        path = tmp_path / "urls.jsonl"
        path.write_text("earlier\n")
        out = JsonLines(path)
        assert path.read_text() == "earlier\n"
        for index in (5, 0, 7):
            out.add(result(index))
        out.close()
        assert [line["index"] for line in lines(path)] == [5, 0, 7]

    def test_a_journal_cannot_be_another_file_of_the_run(self, prompts: Prompts, tmp_path: Path) -> None:
        """Nothing is written over by a slip of the hand."""
        path = prompts("a lake")
        refused("batch", path, "--journal", path, says="--journal .*: that is the file with the prompts")
        out = tmp_path / "u.jsonl"
        refused("batch", path, "--out", out, "--journal", out, says="that is the file of --out")
        refused("batch", path, "--journal", out, "--no-journal", says="exclude each other")


class TestBadInput:
    """Each is one line that says what to do, and status 2."""

    def test_prompt_files(self, tmp_path: Path, prompts: Prompts) -> None:
        """Missing, a folder, binary, empty, without prompts, of an unknown format."""
        refused("batch", tmp_path / "no.txt", says=r"no\.txt: there is no such file")
        refused("batch", tmp_path, says="Is a directory")
        binary = tmp_path / "a.txt"
        binary.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
        refused("batch", binary, says=r"a\.txt: it is binary, or UTF-16 .*; allowed: text\. Save it as UTF-8")
        refused("batch", prompts(), says=r"prompts\.txt: there is no prompt in it")
        refused("batch", prompts("# nothing", ""), says="there is no prompt in it")
        refused(
            "batch", prompts("text,width", "x,3", name="p.csv"), says=r"no column 'prompt'.*has text, width"
        )
        refused(
            "batch", prompts("a", name="p.docx"), says=r"cannot be told from '\.docx'; say --input-format"
        )

    def test_no_input_at_all(self) -> None:
        """An empty pipe is like an empty file."""
        result = process("batch", "-")
        assert (result.status, result.stderr) == (
            2,
            "blossom: stdin: there is no prompt in it; allowed: at least one\n",
        )

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (
                ["--width", "-5"],
                "width: -5 cannot be used; allowed: a whole number of pixels from 16 to 4096",
            ),
            (["--width", "NaN"], "'NaN' is not a valid integer"),
            (["--width", "1000000000"], "width: 1000000000 cannot be used"),
            (["--format", "gif"], "format: 'gif' cannot be used; allowed: one of jpg, png, webp"),
            (["--format", "jpg", "--transparency"], "transparency: True cannot be used; allowed: False with"),
            (["--quality", "ultr"], "Did you mean 'ultra'"),
            (["--seed", "-1"], "seed: -1 cannot be used"),
            (["--expires-in", "0"], "--expires-in: 0 cannot be used"),
            (["--cache-control", "x\ny"], "--cache-control: .* cannot be used"),
            (["--metadata", "page"], "--metadata: 'page' is not a pair; allowed: KEY=VALUE"),
            (
                ["--metadata", "a=1", "--metadata", "a=2"],
                "--metadata: 'a' is there twice; allowed: each key once",
            ),
            (["--use-custom-cdn"], "--use-custom-cdn needs a prefix; add --cdn-prefix"),
            (["--use-custom-cdn", "--cdn-prefix", "http://cdn.example.com"], "--cdn-prefix: .* is not https"),
            (["--base-url", "ftp://example.com"], "--base-url: 'ftp://example.com' is not a valid address"),
            (["--base-url", "http://127.0.0.1:9"], r"no answer from http://127\.0\.0\.1:9"),
            (["--timeout", "0"], "'--timeout': 0.0 is not in the range"),
            (
                ["--timeout", "nan"],
                "'--timeout': nan is not a number; allowed: SECONDS as a number",
            ),
            (["--timeout", "inf"], "'--timeout': inf is not in the range"),
            (["--timeout", "1e300"], "'--timeout': 1e.300 is not in the range"),
            (["--base-url", "http://a..b/"], "--base-url: 'http://a..b/' is not a valid address"),
            (["--base-url", f"http://{'x' * 70}.com"], "--base-url: .* is not a valid address"),
            (["--api-key-file", "/no/such/file"], "--api-key-file /no/such/file: No such file or directory"),
        ],
    )
    @pytest.mark.parametrize("command", ["url", "batch"])
    def test_options(self, command: str, options: list[str], says: str, prompts: Prompts) -> None:
        """Found before anything is made."""
        refused(command, prompts("a lake") if command == "batch" else "a lake", *options, says=says)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--rate-limit", "fast"], "--rate-limit: rate limit: 'fast'; allowed: .*'600/min'"),
            (["--max-concurrency", "0"], "'--max-concurrency': 0 is not in the range"),
            (["--limit", "0"], "'--limit': 0 is not in the range"),
            (["--out", "/no/such/folder/x"], "--out /no/such/folder/x: No such file or directory"),
            (["--gallery", "/no/such/folder/x"], "--gallery /no/such/folder/x: No such file or directory"),
            (["--gallery", "/"], "--gallery /: that is a folder or a device; name a regular file"),
            (["--out", "-"], "--out -: that is not a file; use --json for standard output"),
            (["--gallery", "-"], "--gallery -: that is not a file; use --json for standard output"),
        ],
    )
    def test_options_of_batch(self, options: list[str], says: str, prompts: Prompts) -> None:
        """As above."""
        refused("batch", prompts("a lake"), *options, says=says)

    @pytest.mark.parametrize("option", ["--out", "--gallery"])
    def test_results_never_replace_the_prompts(self, prompts: Prompts, option: str) -> None:
        """A slip of the hand costs nothing."""
        path = prompts("a lake")
        refused("batch", path, option, path, says="that is the file with the prompts")
        assert path.read_text("utf-8") == "a lake\n"

    def test_a_file_of_results_has_no_name_of_another_format(self, prompts: Prompts, tmp_path: Path) -> None:
        """A spreadsheet would show lines of JSON in one column."""
        table = tmp_path / "urls.csv"
        refused("batch", prompts("a"), "--out", table, says="name a file that ends in .jsonl")
        assert not table.exists()

    def test_two_results_never_share_a_file(self, prompts: Prompts, tmp_path: Path) -> None:
        """One would replace the other."""
        same = tmp_path / "same"
        refused("batch", prompts("a"), "--out", same, "--gallery", same, says="that is the file of --out")

    @pytest.mark.parametrize("option", ["--out", "--gallery", "--journal"])
    def test_a_loop_of_links(self, prompts: Prompts, tmp_path: Path, option: str) -> None:
        """It leads nowhere."""
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        refused("batch", prompts("a lake"), option, loop, says=f"{option} .*loop: .*symbolic links")

    def test_a_pipe_without_a_reader(self, prompts: Prompts, tmp_path: Path) -> None:
        """Opening it would wait for ever."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        refused("batch", prompts("a lake"), "--out", pipe, says="nothing reads this pipe; start its reader")

    def test_a_pipe_with_a_reader(self, prompts: Prompts, tmp_path: Path) -> None:
        """It gets every line."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert blossom("batch", prompts("a lake"), *TINY, "--out", pipe).status == 0
            assert orjson.loads(os.read(reader, 65536))["prompt"] == "a lake"
        finally:
            os.close(reader)

    @pytest.mark.campaign
    @pytest.mark.parametrize(
        "arguments",
        thoroughly(
            ["batch", "-", *TINY], ["batch", "-", *TINY, "--json"], ["url", "a lake", *TINY], ["--help"]
        ),
        ids=["table", "json", "url", "help"],
    )
    @pytest.mark.parametrize("unbuffered", thoroughly("", "1"))
    def test_a_full_disk_under_standard_output(self, arguments: list[str], unbuffered: str) -> None:
        """Is said, with status 2, and what was made is said too."""
        with Path("/dev/full").open("w") as full:
            ran = subprocess.run(
                [*BLOSSOM, *arguments], input="a lake\n", stdout=full, stderr=subprocess.PIPE, text=True,
                check=False, timeout=LIMIT_S, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            )  # fmt: skip
        assert ran.returncode == 2, ran.stderr
        assert ran.stderr.endswith(
            "blossom: standard output: No space left on device; make room, or redirect it elsewhere\n"
        )
        assert "Traceback" not in ran.stderr
        assert "Exception ignored" not in ran.stderr
        assert ("1 of 1 picture" in ran.stderr or "1 picture in" in ran.stderr) == (arguments[0] == "batch")

    @pytest.mark.campaign
    def test_standard_output_that_is_closed(self) -> None:
        """As in ``>&-``: sockets do not take its number."""
        ran = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *BLOSSOM, "url", "a lake", *TINY],
            check=False, capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr

    def test_jsonl_of_a_thousand_brackets(self, prompts: Prompts) -> None:
        """Fails alone, with its line number."""
        deep = "[" * 1000 + "]" * 1000
        path = prompts('"a lake"', deep, f'{{"prompt": {deep}}}', name="p.jsonl")
        result = blossom("batch", path, *TINY, "--json", "--journal", path.with_name("journal"))
        assert result.status == 1
        errors = [orjson.loads(line)["error"] for line in result.stdout.splitlines()]
        assert errors[0] is None
        assert errors[1].startswith("p.jsonl:2: the line nests lists or objects more than 16 deep")
        assert errors[2].startswith("p.jsonl:3: the line nests")

    @pytest.mark.parametrize(
        ("changes", "fails"),
        thoroughly(
            ({"url": "http://["}, None), ({"height": 0}, True), ({"width": -5}, True), ({"id": "../x"}, True)
        ),
    )
    async def test_hostile_answers(
        self, prompts: Prompts, tmp_path: Path, changes: dict[str, Any], fails: bool | None
    ) -> None:
        """A gateway cannot bring the command down."""

        async def answer(_: str) -> dict[str, Any]:
            return {**told(0), **changes}

        page = tmp_path / "page.html"
        async with scripted(answer) as base_url:
            args = ("batch", prompts("a lake"), "--base-url", base_url, "--gallery", page)
            ended = await asyncio.to_thread(process, *args)  # which sees to it that there is no traceback
        assert ended.status in ({1, 2} if fails else {0, 1, 2})

    def test_a_full_disk_under_out(self, prompts: Prompts) -> None:
        """What cannot be written is said, not lost silently."""
        refused(
            "batch", prompts("a lake"), *TINY, "--out", "/dev/full", says="--out /dev/full: No space left"
        )

    @pytest.mark.parametrize("prompt", ["", " ", "x" * 40_000])
    def test_prompts_of_url(self, prompt: str) -> None:
        """Too little and too much."""
        refused("url", prompt, says="prompt: .* cannot be used; allowed: text of 1 to 32,000 characters")

    def test_a_data_folder_that_cannot_be_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Says how to choose another."""
        monkeypatch.setenv("BLOSSOM_DATA_DIR", "/dev/null/data")
        for command in (["url", "a lake"], ["serve"]):
            refused(*command, says="data folder /dev/null/data: .*; choose another with BLOSSOM_DATA_DIR")

    @pytest.mark.parametrize(
        "command", thoroughly(["serve"], ["url", "a lake"], ["keys", "list"], ["batch", "-"])
    )
    def test_a_user_without_a_home_folder(self, command: list[str]) -> None:
        """As services run: the setting is named that it needs."""
        code = (
            "import pwd, sys\n"
            "pwd.getpwuid = lambda uid: {}[uid]  # as for a user without an entry\n"
            "sys.argv = ['blossom', *sys.argv[1:]]\n"
            "from blossom_async.cli import main\nmain()\n"
        )
        homes = {"HOME", "XDG_DATA_HOME", "BLOSSOM_DATA_DIR"}
        env = {name: value for name, value in os.environ.items() if name not in homes}
        ran = subprocess.run(
            [sys.executable, "-c", code, *command], input="a lake\n", env=env, capture_output=True, text=True,
            check=False, timeout=LIMIT_S,
        )  # fmt: skip
        assert ran.returncode == 2
        assert re.search(
            "^blossom: (data_dir|--data-dir): no home folder was found.*BLOSSOM_DATA_DIR$", ran.stderr.strip()
        )

    async def test_something_else_at_the_address(self, prompts: Prompts) -> None:
        """A web server that is no gateway is named as such."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            result = await asyncio.to_thread(blossom, "batch", prompts("a lake"), "--base-url", url)
        assert result.status == 2
        assert "that is not a Blossom gateway; check --base-url or BLOSSOM_BASE_URL" in result.stderr

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (
                ["--cache-control", "public", "--require-auth"],
                "with --require-auth, --allowed-ip or --allowed-",
            ),
            (["--allowed-domain", "*"], "--allowed-domain: .*; omit --allowed-domain to allow every site"),
            (["--metadata", "a=\x01"], r"--metadata\['a'\]: "),
            (["--width", "5", "--cache-control", "max_age"], "--width: 5 cannot be used"),
        ],
    )
    def test_options_have_the_names_of_the_command_line(self, options: list[str], says: str) -> None:
        """Nobody who types a command knows the names of a Python program."""
        refused("url", "a lake", *options, says=says)

    def test_an_address_from_the_environment_is_not_laid_to_an_option(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable is named."""
        monkeypatch.setenv("BLOSSOM_BASE_URL", "http://a..b/")
        refused("url", "a lake", says="BLOSSOM_BASE_URL: 'http://a..b/' is not a valid address")

    @pytest.mark.parametrize("number", ["nan", "inf"])
    def test_a_limit_that_is_no_number(self, number: str, prompts: Prompts) -> None:
        """Neither would limit anything."""
        says = f"'--max-cost': {number} is not a number"
        refused("batch", prompts("a lake"), "--max-cost", number, says=says)
        refused("keys", "create", "a", "--daily-budget", number, says="'--daily-budget': .* is not a number")

    @pytest.mark.parametrize(
        ("failure", "says"),
        [
            (OSError(24, "Too many open files"), "^Too many open files; the system refused this: look at"),
            (
                PermissionError(13, "Permission denied", "/a/b"),
                "^/a/b: Permission denied; the system refused",
            ),
            (ExceptionGroup("", [InvalidRequest("seed", -1, "more")]), "^--seed: -1 cannot be used; allowed"),
            (
                ConfigurationError("cache_control, 'cache_control', /cache_control"),
                "^--cache-control, 'cache_c",
            ),
            (ExceptionGroup("", [OSError(24, "x"), ZeroDivisionError()]), None),
            (KeyError("seed"), None),
        ],
    )
    def test_what_the_environment_does_is_one_sentence(self, failure: Exception, says: str | None) -> None:
        """And what is a bug is none."""
        said = sentence(failure, commands.get_command(click.Context(commands), "url"))
        assert (said is None) if says is None else (said is not None and re.search(says, said)), said

    def test_a_bug_still_shows_a_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only errors raised on purpose become one line."""
        monkeypatch.setattr("blossom_async.cli.options.picture_settings", lambda _: 1 / 0)
        monkeypatch.setattr("blossom_async.cli.url.picture_settings", lambda _: 1 / 0)
        assert isinstance(CliRunner().invoke(commands, ["url", "a lake"]).exception, ZeroDivisionError)


class TestKeys:
    """Which key goes to which gateway."""

    async def test_a_key_in_a_file_opens_the_gateway(
        self, gateway: AbstractAsyncContextManager[RunningGateway], prompts: Prompts, tmp_path: Path
    ) -> None:
        """The key itself is never on the command line."""
        key = tmp_path / "key"
        key.write_text(f"{KEY}\n")
        async with gateway as there:
            args = ("batch", prompts("a lake"), *TINY, "--base-url", there.base_url, "--api-key-file", key)
            result = await asyncio.to_thread(blossom, *args)
        assert result.status == 0
        assert there.base_url in result.stdout
        assert "blossom serve" not in result.stderr  # that gateway goes on

    async def test_a_wrong_key_is_said_once(
        self, gateway: AbstractAsyncContextManager[RunningGateway], prompts: Prompts
    ) -> None:
        """Nothing could start: the others would hear the same."""
        async with gateway as there:
            args = ("batch", prompts(*["a lake"] * 50), "--base-url", there.base_url)
            result = await asyncio.to_thread(blossom, *args, BLOSSOM_API_KEY="wrong-" + KEY)
        assert result.status == 2
        assert "; give the key in BLOSSOM_API_KEY or a file with --api-key-file\n" in result.stderr
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "it holds 0 words"),
            ("a b", "it holds 2 words"),
            ("clé", "characters other than visible ASCII; allowed: a file that holds the key alone"),
            ("a\x01b", "characters other than visible ASCII"),
        ],
    )
    def test_a_key_file_holds_one_key(self, tmp_path: Path, text: str, says: str) -> None:
        """Anything else is a mistake."""
        path = tmp_path / "key"
        path.write_text(text)
        refused("url", "a lake", "--api-key-file", path, says=says)


class TestGetAndDelete:
    """``blossom get`` and ``blossom delete``."""

    def test_a_picture_is_shown_downloaded_and_deleted(self, tmp_path: Path) -> None:
        """By URL or id; a picture that does not exist is named, and the others are deleted."""
        info = orjson.loads(blossom("url", "a lake", "--json", *TINY).stdout)
        shown = blossom("get", info["id"], "--wait")
        assert info["sha256"] in shown.stdout
        assert orjson.loads(blossom("get", info["url"], "--json").stdout)["seed"] == info["seed"]
        got = blossom("get", info["url"], "--download", tmp_path)
        assert got.stdout == f"{tmp_path / info['id']}.png\n"
        assert (tmp_path / f"{info['id']}.png").stat().st_size == info["file_size"]
        ended = blossom("delete", "--yes", info["url"], "0" * 22)
        assert ended.status == 1
        assert "1 picture deleted" in ended.stderr
        assert f"{'0' * 22}: this gateway has no picture with that id" in ended.stderr
        refused("get", info["id"], says="the picture was deleted")

    def test_nothing_is_deleted_without_a_yes(self) -> None:
        """It asks, and an empty answer means no."""
        url = blossom("url", "a lake", *TINY).stdout.strip()
        assert blossom("delete", url).status == 130
        assert blossom("get", url).status == 0

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        """It is named, with what to do."""
        url = blossom("url", "a lake", *TINY).stdout.strip()
        nowhere = tmp_path / "missing" / "lake.png"
        refused(
            "get", url, "--download", nowhere, says="--download .*: No such file or directory; name another"
        )
        refused("get", url, "--download", nowhere, "--json", says="--download and --json exclude each other")


class TestUrl:
    """``blossom url``."""

    def test_the_url_is_all_there_is_on_stdout(self) -> None:
        """So that it can be used in other commands."""
        result = process("url", "a lake", *TINY)
        assert result.status == 0
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/image/[0-9A-Za-z]{22}\n", result.stdout)
        assert "URLs work while `blossom serve" in result.stderr
        assert "or with --keep" in result.stderr

    @pytest.mark.campaign
    def test_a_prompt_in_a_locale_that_python_takes_for_ascii(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The terminal sends UTF-8 all the same, as under cron and in small containers."""
        for name, value in {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}.items():
            monkeypatch.setenv(name, value)
        result = process("url", "a fox \U0001f98a", "--metadata", "für=mich", "--json", *TINY)
        assert result.status == 0
        assert orjson.loads(result.stdout)["metadata"] == {"für": "mich"}

    def test_a_prompt_without_quotes(self) -> None:
        """The shell made several arguments of it."""
        refused(
            "url",
            "a",
            "lake",
            says="2 arguments where one PROMPT is expected; quote the prompt. See blossom url --help",
        )

    def test_messages_are_sentences(self, prompts: Prompts) -> None:
        """Another one follows."""
        refused("batch", prompts("a"), "x", says=r"extra argument \(x\)\. See blossom batch --help\.$")
        refused("url", says=r"Missing argument 'PROMPT'\. See blossom url --help\.$")

    def test_info_and_json_say_all(self) -> None:
        """As a table and for programs."""
        told = orjson.loads(blossom("url", "a lake", *TINY, "--json", "--expires-in", 60).stdout)
        assert (told["width"], told["expires_at"] is None) == (32, False)
        shown = blossom("url", "a lake", *TINY, "--info", "--metadata", "page=1").stdout
        assert "32 x 32, png" in shown
        assert "page=1" in shown
        refused("url", "a lake", "--info", "--json", says="exclude each other")

    @pytest.mark.campaign
    def test_keep_serves_it_until_ctrl_c(self) -> None:
        """The URL opens as long as the command runs."""
        with running("url", "a lake", *TINY, "--keep") as there:
            assert there.stdout is not None
            assert there.stderr is not None
            url = there.stdout.readline().strip()
            assert there.stderr.readline() == "blossom: serving it until Ctrl-C\n"
            with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:  # noqa: S310 - our own gateway
                assert answer.status == 200
            there.send_signal(signal.SIGINT)
            ended(there)
        assert there.returncode == 0


class TestServe:
    """``blossom serve``."""

    @pytest.mark.parametrize("number", thoroughly(signal.SIGTERM, signal.SIGINT))
    def test_urls_of_earlier_runs_come_back(self, number: signal.Signals, tmp_path: Path) -> None:
        """It serves the data folder, says where, never says the key, and stops cleanly."""
        earlier = orjson.loads(blossom("url", "a lake", *TINY, "--json").stdout)
        with running("serve", "--port", "0", "--data-dir", tmp_path / "data") as there:
            assert there.stdout is not None
            banner = "".join(there.stdout.readline() for _ in range(4))
            address = re.search(r"http://127\.0\.0\.1:[0-9]+", banner)
            assert address
            with urllib.request.urlopen(f"{address[0]}/image/{earlier['id']}", timeout=LIMIT_S) as answer:  # noqa: S310 - our own gateway
                assert len(answer.read()) == earlier["file_size"]
            assert f"{tmp_path / 'data'}" in banner
            assert f"{tmp_path / 'data' / 'api_key'}" in banner
            assert (tmp_path / "data" / "api_key").read_text() not in banner
            second = blossom("serve")
            assert second.status == 2
            assert f"a gateway on {address[0]} already serves it" in second.stderr
            used = blossom("url", "a sea", *TINY)
            assert used.stdout.startswith(address[0])
            assert used.stderr == ""
            there.send_signal(number)
            assert "stopped" in ended(there)
        assert there.returncode == 0
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{address[0]}/healthz", timeout=LIMIT_S)  # noqa: S310 - our own gateway

    def test_a_port_that_is_taken(self) -> None:
        """Says how to choose another."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            refused("serve", "--port", port, says=f"cannot listen on 127.0.0.1 port {port}: .*--port")

    def test_beyond_loopback_it_needs_keys(self) -> None:
        """Nothing is open to strangers by accident."""
        refused("serve", "--host", "0.0.0.0", says="no API key is set; set BLOSSOM_API_KEYS")

    def test_settings_that_cannot_be_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each is named."""
        refused("serve", "--port", "99999", says="port: 99999 is not a port")
        refused("serve", "--config", tmp_path / "no.toml", says="there is no such file")
        (tmp_path / "bad.toml").write_text("[blossom]\nporrt = 3\n")
        refused("serve", "--config", tmp_path / "bad.toml", says="porrt")
        monkeypatch.setenv("BLOSSOM_PORT", "many")
        refused("serve", says="many")

    @pytest.mark.campaign
    def test_settings_come_from_a_file_too(self, tmp_path: Path) -> None:
        """And the public URL is what the gateway says of itself."""
        config = tmp_path / "blossom.toml"
        config.write_text('[blossom]\npublic_url = "https://images.example.com"\n')
        with running("serve", "--config", config) as there:
            assert there.stdout is not None
            assert there.stdout.readline() == "Blossom gateway on https://images.example.com\n"
            there.send_signal(signal.SIGTERM)
            ended(there)
        assert there.returncode == 0


class TestWords:
    """How numbers and texts are said."""

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(0.04, "0.0 s"), (1.94, "1.9 s"), (99.9, "99.9 s"), (99.96, "1 min 40 s"), (3600, "1 h 0 min")],
    )
    def test_durations(self, seconds: float, words: str) -> None:
        """In the unit a person would use."""
        assert duration(seconds) == words

    def test_counts_and_sizes(self) -> None:
        """With separators, and one is one."""
        assert (plural(1, "picture"), plural(1632, "picture")) == ("1 picture", "1,632 pictures")
        assert [size(n) for n in (999, 1000, 999_499, 999_500)] == ["999 B", "1 kB", "999 kB", "1.0 MB"]

    def test_a_header_cannot_steer_the_terminal(self, prompts: Prompts) -> None:
        """Whatever is said goes through the same sieve."""
        path = prompts("prompt,\x1b]0;owned\x07", "a lake,b", name="p.csv")
        stderr = blossom("batch", path, *TINY).stderr
        assert "not options: �]0;owned�" in stderr

    def test_whatever_is_said_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without characters that would steer a terminal."""
        say("\x1b[2Jone\ntwo")
        assert capsys.readouterr().err == "blossom: �[2Jone two\n"

    @given(st.text())
    def test_nothing_said_steers_a_terminal(self, text: str) -> None:
        """Whatever the text, it is one line of printable characters."""
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", said(text))
        said(text).encode()
