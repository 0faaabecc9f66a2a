"""Build the documentation site, build/site, from pages, docstrings and the gateway's OpenAPI document.

    uv run --extra all --group docs python .ci/site.py

A link to nowhere, a page outside the navigation and a public name without a docstring end it with an error.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from man import commands_of

import blossom_async
from blossom_async.cli.commands import commands
from blossom_async.gateway.calls.api import Api
from blossom_async.gateway.calls.openapi import document
from blossom_async.gateway.dashboard.docs import in_words

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"

REFERENCE = {
    "client": (
        "Client",
        ["blossom_async.client", "blossom_async.images", "blossom_async.url_batch", "blossom_async.notebook"],
    ),
    "models": ("Models", ["blossom_async.models"]),
    "errors": ("Errors", ["blossom_async.errors"]),
    "batch": ("Batch engine", ["blossom_async.batch"]),
    "clusters": ("Ray and Dask", ["blossom_async.ray", "blossom_async.dask", "blossom_async.rows"]),
    "testing": ("Testing", ["blossom_async.testing", "blossom_async.testing.fixtures"]),
}
"""Page -> its title and the modules whose public names it has."""

PARTLY = {
    "blossom_async.notebook": {"Bar"},
    "blossom_async.url_batch": {"BatchOptions", "UrlBatch"},
    "blossom_async.rows": {"ApplyOptions", "GenerateOptions"},
}
"""The public names of modules that also have names for the rest of the package."""


def names(module: str) -> list[str]:
    """The public names of a module for its users. Of errors and models these are the classes."""
    found = import_module(module)
    if module in {"blossom_async.errors", "blossom_async.models"}:
        return [name for name in found.__all__ if inspect.isclass(getattr(found, name))]
    return [name for name in found.__all__ if name in PARTLY.get(module, {name})]


def undocumented() -> Iterator[str]:
    """Public names, and methods of public classes, whose docstring is missing."""
    shown = {name for _, modules in REFERENCE.values() for module in modules for name in names(module)}
    yield from (f"blossom_async.{name} is on no page" for name in set(blossom_async.__all__) - shown)
    for _, modules in REFERENCE.values():
        for module in modules:
            for name in names(module):
                thing = getattr(import_module(module), name)
                parts = {name: thing} | {
                    f"{name}.{part}": value
                    for part, value in (vars(thing).items() if inspect.isclass(thing) else ())
                    if not part.startswith("_")
                }
                for part, value in parts.items():
                    function = value.fget if isinstance(value, property) else value
                    named = inspect.isclass(function) or inspect.isroutine(function)
                    if named and not function.__doc__:
                        yield f"{module}.{part} has no docstring"


def summary(thing: object) -> str:
    """The first sentence of its docstring, in a cell of a table."""
    text = inspect.getdoc(thing) if inspect.isclass(thing) or inspect.isroutine(thing) else ""
    return " ".join((text or "").partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def write_reference(folder: Path) -> None:
    """A page for each part of the package, and the index of all of them."""
    index = ["# Reference", "", "Every public name of the package, with what its docstring says."]
    for page, (title, modules) in REFERENCE.items():
        lines = [f"# {title}"]
        index += ["", f"## {title}", "", "| name | what it is |", "|---|---|"]
        for module in modules:
            for name in names(module):
                path = f"{module if name not in blossom_async.__all__ else 'blossom_async'}.{name}"
                lines += ["", f"::: {path}"]
                what = summary(getattr(import_module(module), name))
                index.append(f"| [`{name}`]({page}.md#{path}) | {what} |")
        (folder / f"{page}.md").write_text("\n".join([*lines, ""]), "utf-8")
    index += ["", "In a shell: [the command line](cli.md)."]
    index += ["", "Over HTTP: [the calls of the gateway](http.md), [its settings](../docs/settings.md)."]
    (folder / "README.md").write_text("\n".join([*index, ""]), "utf-8")


def write_http(folder: Path) -> None:
    """The calls of ``/openapi.json`` as a page."""
    found = document(Api.__new__(Api).routes(), "http://127.0.0.1:8765")
    lines = [
        "# HTTP",
        "",
        "The calls of a gateway, as its `/openapi.json` describes them to programs. All under `/v1` need an",
        "API key (`Authorization: Bearer ...`) if the gateway has any. Errors are [problems](#problem).",
    ]
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            lines += ["", f"## {method.upper()} {path}", "", operation["summary"]]
            lines += ["", operation["description"]] if "description" in operation else []
            if operation["parameters"]:
                lines += ["", "| parameter | in | what it is |", "|---|---|---|"]
                lines += [
                    f"| `{each['name']}` | {each['in']} | {kind({**each, **each['schema']})} |"
                    for each in operation["parameters"]
                ]
            if "requestBody" in operation:
                lines += ["", f"**Body:** {content(operation['requestBody'])}"]
            lines += ["", "| answer | what it means |", "|---|---|"]
            lines += [
                f"| {status} | {answer['description']} {content(answer) if status < '400' else ''} |"
                for status, answer in sorted(operation["responses"].items())
            ]
    for name, schema in found["components"]["schemas"].items():
        lines += ["", f"## {name}", "", schema.get("description", "")]
        lines += ["", "| field | value |", "|---|---|"]
        lines += [
            f"| `{field}`{' (required)' if field in schema.get('required', ()) else ''} | {kind(value)} |"
            for field, value in schema["properties"].items()
        ]
    (folder / "http.md").write_text("\n".join([*lines, ""]), "utf-8")


def write_command_line(folder: Path) -> None:
    """What ``--help`` says of each command, without panels and colours, as a page."""
    lines = ["# Command line", "", "Each command explains itself with `--help`."]
    for context in commands_of(click.Context(commands, info_name="blossom")):
        plain = click.Group if isinstance(context.command, click.Group) else click.Command
        told = click.HelpFormatter(width=100)
        for write in (plain.format_usage, plain.format_help_text, plain.format_options):
            write(context.command, context, told)
        lines += ["", f"## {context.command_path}", "", f"```text\n{told.getvalue()}```"]
    (folder / "cli.md").write_text("\n".join([*lines, ""]), "utf-8")


def content(part: dict[str, Any]) -> str:
    """What a body or an answer contains."""
    return ", ".join(f"{kind(each['schema'])} (`{media}`)" for media, each in part.get("content", {}).items())


def kind(schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words, with its description."""
    said = in_words(schema, named=lambda name: f"[{name}](#{name.lower()})", value="`{}`".format) or "bytes"
    return f"{said}. {schema['description']}" if "description" in schema else said


def gather() -> None:
    """All pages in ``build/pages``, laid out as in the project, so that links between them hold."""
    shutil.rmtree(PAGES, ignore_errors=True)
    (PAGES / "reference").mkdir(parents=True)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, PAGES)
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, PAGES / name, ignore=shutil.ignore_patterns("__pycache__"))
    for page in [*(ROOT / "benchmarks").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.svg")]:
        target = PAGES / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, target)
    write_reference(PAGES / "reference")
    write_http(PAGES / "reference")
    write_command_line(PAGES / "reference")


def not_in_the_navigation() -> Iterator[str]:
    """Pages that no reader would find."""
    listed = set(re.findall(r'"([\w./-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8")))
    for page in sorted(PAGES.rglob("*.md")):
        if (name := page.relative_to(PAGES).as_posix()) not in listed:
            yield f"{name} is missing from nav in zensical.toml"


def main() -> None:
    """Gather the pages, then build the site strictly. ``--pages`` only gathers them."""
    gather()
    if problems := [*undocumented(), *not_in_the_navigation()]:
        sys.exit("\n".join(problems))
    if "--pages" not in sys.argv:
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
