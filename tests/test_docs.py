"""Every code block of README and docs runs as it stands."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.alone import alone
from tests.ports import reserved_port
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SET_UP = "python3 -m pip install -q --target .uv uv && .uv/bin/uv run --extra all "
OTHERS = re.compile(r"^(?:import|from) (daft|distributed|pyspark|ray)\b", re.MULTILINE)
"""Frameworks that a block may use: it runs where that is installed."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str, str]]:
    for page in PAGES:
        for number, (kind, code) in enumerate(BLOCK.findall(page.read_text("utf-8")), 1):
            yield f"{page.relative_to(ROOT)}-{number}", kind, code


def of_kind(kind: str) -> list[object]:
    """Those of README run always, the others in the campaigns."""
    return [
        pytest.param(code, id=name, marks=[] if name.startswith("README") else [pytest.mark.campaign])
        for name, found, code in blocks()
        if found == kind
    ]


@pytest.fixture
def workplace(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with the examples in it, and an environment whose first command is ours."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BLOSSOM_DATA_DIR": str(tmp_path / "data"),
        "RAY_ADDRESS": "local",  # or it takes any cluster that there is
    }
    return tmp_path, environment


@pytest.fixture
def port() -> Iterator[str]:
    with reserved_port() as port:
        yield str(port)


def test_every_block_says_what_it_is() -> None:
    """A block is python or sh and runs, or text and is output."""
    assert {kind for _, kind, _ in blocks()} <= {"python", "sh", "text"}


@pytest.mark.parametrize("code", of_kind("python"))
def test_python_blocks_run(code: str, workplace: tuple[Path, dict[str, str]]) -> None:
    """Each block is a program of its own that ends well and warns of nothing."""
    folder, environment = workplace
    (folder / "block.py").write_text(code, "utf-8")
    strict = ["-W", "error"]
    if other := OTHERS.search(code):
        if importlib.util.find_spec(other[1]) is None:
            pytest.skip(f"{other[1]} is missing: install it to have this block run")
        strict = []  # they warn of their own doings
    with alone("ray") if other and other[1] == "ray" else nullcontext():
        ended = subprocess.run(
            [sys.executable, *strict, "block.py"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.campaign  # each line is a process
@pytest.mark.parametrize("code", of_kind("sh"))
def test_sh_blocks_run(code: str, workplace: tuple[Path, dict[str, str]], port: str) -> None:
    """Each line ends well; ``blossom serve`` runs beside the lines that follow it and ends on SIGTERM."""
    folder, environment = workplace
    if "--on" in code:
        pytest.importorskip("pyarrow", reason="Arrow is missing: uv sync --extra dask")
    environment["BLOSSOM_PORT"] = port
    serving: subprocess.Popen[str] | None = None
    try:
        for line in code.replace("8765", port).splitlines():
            command = line.removeprefix(SET_UP)
            if command == "pytest":
                continue  # this very run
            if shutil.which(program := command.split()[0], path=environment["PATH"]) is None:
                pytest.skip(f"this machine has no {program}")
            if command == "blossom serve":
                serving = subprocess.Popen(
                    ["blossom", "serve"],
                    cwd=folder,
                    env={**environment, "PYTHONUNBUFFERED": "1"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                assert serving.stdout is not None
                while port not in (said := serving.stdout.readline()):
                    assert said, "blossom serve ended before it said where it listens"
                continue
            ended = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
            assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    finally:
        if serving is not None:
            serving.send_signal(signal.SIGTERM)
            serving.communicate(timeout=LIMIT_S)
    assert serving is None or serving.returncode == 0


def test_ci_runs_the_readmes_test_command() -> None:
    """``.ci/run`` contains the very command that README gives, and runs what that leaves out."""
    command = f"{SET_UP}pytest"
    assert command in (ROOT / "README.md").read_text("utf-8").splitlines()
    run = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert command in run
    assert any("pytest -m campaign" in line for line in run)


def test_readme_starts_with_the_two_commands() -> None:
    """Under 150 lines, the two commands first, then a short example."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) < 150
    kinds = [kind for kind, _ in BLOCK.findall(text)]
    assert kinds[:3] == ["sh", "sh", "python"]


def test_the_chart_shows_the_raw_figures() -> None:
    """``benchmarks/performance.svg`` is what ``chart.py`` draws from the figures that are kept."""
    spec = importlib.util.spec_from_file_location("chart", ROOT / "benchmarks" / "chart.py")
    assert spec is not None
    assert spec.loader is not None
    chart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chart)
    assert chart.svg(chart.panels()) == (ROOT / "benchmarks" / "performance.svg").read_text("utf-8")


def test_links_between_pages_lead_somewhere() -> None:
    """No page links to a file that is not there."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.campaign
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_a_type_checker_accepts_every_python_block(checker: str, tmp_path: Path) -> None:
    """What a reader copies has no error in a strict editor."""
    for name, kind, code in blocks():
        if kind == "python" and not OTHERS.search(code):  # whose types are partly unknown
            (tmp_path / f"{name.replace('/', '_')}.py").write_text(code, "utf-8")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', "utf-8")
    commands: dict[str, list[str | Path]] = {
        "mypy": ["mypy", "--strict", "--config-file=", "--cache-dir", ROOT / ".mypy_cache", tmp_path],
        "basedpyright": ["basedpyright", "--pythonpath", sys.executable, "--project", tmp_path],
    }
    ended = subprocess.run(
        [sys.executable, "-m", *commands[checker]],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
