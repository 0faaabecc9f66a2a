"""``blossom batch``: makes a picture of every prompt in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from blossom_async.cli.options import (
    PICTURE,
    URL,
    gateway_options,
    help_settings,
    number,
    picture_options,
    picture_settings,
)
from blossom_async.cli.words import CannotStart, plural, say
from blossom_async.errors import BlossomError

if TYPE_CHECKING:
    from blossom_async.cli.making import Making
    from blossom_async.cli.outputs import Outputs
    from blossom_async.cli.resuming import Resuming

__all__ = ["batch"]

_FORMATS = ("txt", "csv", "tsv", "jsonl", "parquet")
_STOPPED, _TERMINATED = 130, 143  # 128 and the signal's number, as shells have it


@click.command("batch", cls=click.RichCommand, context_settings=help_settings)
@click.argument("prompts", metavar="PROMPTS")
@click.option("--input-format", type=click.Choice(_FORMATS), help="If the file name does not show it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N prompts.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write a line of JSON for each item."
)
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where finished items are recorded; default: beside --out.",
)
@click.option("--no-journal", is_flag=True, help="Record nothing: the same command starts over.")
@click.option(
    "--download",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write the pictures' files into FOLDER, verified.",
)
@click.option(
    "--gallery",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write an HTML page that shows all pictures.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON for each item instead of the table."
)
@click.option("--all", "all_rows", is_flag=True, help="Show every row of the table.")
@click.option(
    "--max-concurrency",
    type=click.IntRange(min=1),
    default=64,
    metavar="N",
    help="Calls in flight at once; default 64.",
)
@click.option("--rate-limit", multiple=True, metavar="N/TIME", help="Such as 600/min or 10/s; repeatable.")
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0),
    callback=number,
    metavar="CREDITS",
    help="Stop before spending more.",
)
@click.option(
    "--on",
    "place",
    metavar="ENGINE",
    help="Where tables of rows are worked on: ray, ray://HOST:PORT, dask://HOST:PORT or local.",
)
@click.option("--run", metavar="NAME", help="With --on: your name for the run; the same again resumes it.")
@click.option("--id", metavar="COLUMN", help="With --on: the column that tells rows apart.")
@click.option("--prompt", metavar="COLUMN", help="With --on: the column of the prompts; default prompt.")
@click.option("--dry-run", is_flag=True, help="Print what it would cost, and make nothing.")
@gateway_options
@picture_options
@click.option_panel(
    "Files",
    options=[
        "--input-format",
        "--limit",
        "--out",
        "--journal",
        "--no-journal",
        "--gallery",
        "--download",
        "--json",
        "--all",
    ],
)
@click.option_panel("Tables and clusters", options=["--on", "--run", "--id", "--prompt"])
@click.option_panel(
    "Gateway",
    options=[
        "--max-cost",
        "--dry-run",
        "--max-concurrency",
        "--rate-limit",
        "--base-url",
        "--api-key-file",
        "--timeout",
    ],
)
@click.option_panel("Picture", options=PICTURE)
@click.option_panel("Its URL", options=URL)
def batch(prompts: str, **given: Any) -> int:
    """Make a picture of every prompt in PROMPTS and print its URL.

    PROMPTS is a file, or - for standard input:

    \b
    .txt         one prompt per line; # starts a comment
    .csv, .tsv   a column "prompt"; further columns named after options set them for their row
    .jsonl       one object of options per line, or a string

    With --out or --journal, the same command resumes a run that was stopped. Finished pictures are not made
    again.

    With --on, PROMPTS and --out are tables, in .parquet, .csv or .jsonl: files, folders or s3:// URLs. Rows
    come out with their URL or error. --run and --id let the same command resume.

    An unusable line fails alone. Exit status: 0 all done, 1 some items failed, 2 the run failed, 130 stopped
    by Ctrl-C, 143 by SIGTERM.
    """
    from blossom_async.batch.gate import rate_limits
    from blossom_async.cli.prompts.file import PromptFile
    from blossom_async.cli.resuming import resuming

    for name in ("out", "gallery"):
        if given[name] == Path("-"):
            raise CannotStart(f"--{name} -: that is not a file; use --json for standard output")
    settings: dict[str, Any] = dict(picture_settings(given))
    if given["place"] is not None or given["run"] or given["id"] or given["prompt"]:
        from blossom_async.cli.clusters import batch_on

        return batch_on(prompts, settings, given)
    if given["input_format"] == "parquet":
        raise CannotStart("--input-format parquet: only with --on; use --on local for this machine")
    try:
        limits = rate_limits(given["rate_limit"])
    except ValueError as exc:
        raise CannotStart(f"--rate-limit: {exc}") from exc
    if given["download"] is not None and not given["dry_run"]:
        from blossom_async.cli.saving import check_folder

        check_folder(given["download"])
    with PromptFile(prompts, given["input_format"]) as source:
        if given["dry_run"]:
            from blossom_async.cli.estimate import estimate

            return estimate(source, settings, given)
        from blossom_async.cli.making import Making
        from blossom_async.cli.outputs import Outputs, check_files

        out, page = given["out"], given["gallery"]
        resume = resuming(journal=given["journal"], no_journal=given["no_journal"], out=out)
        check_files(source, {"--out": out, "--gallery": page, "--journal": resume.journal})
        settings |= {"rate_limit": limits, "journal": resume.journal, "max_cost": given["max_cost"]}
        outputs = Outputs(out=out, gallery=page, as_json=given["as_json"], all_rows=given["all_rows"])
        try:
            return _made(Making(source, outputs, settings, given), outputs, resume, source.name)
        finally:
            outputs.close()


def _made(making: Making, outputs: Outputs, resume: Resuming, source: str) -> int:
    """Makes the pictures, says what became of them, and gives the exit status."""
    from blossom_async.cli.loop import Terminated, run

    failure: Exception | None = None
    stopped = 0
    try:
        run(making.run())
    except KeyboardInterrupt:
        stopped = _STOPPED
    except Terminated:
        stopped = _TERMINATED
    except (BlossomError, CannotStart) as exc:
        failure = resume.advised(exc)
    if failure is not None and not outputs.tally.done:
        raise failure
    ended = not stopped and failure is None and outputs.tally.stopped_by is None
    try:
        outputs.show()
    finally:
        sentence = outputs.tally.sentence(ended=ended)
        say(sentence if ended else f"stopped: {sentence}")
        if outputs.tally.stopped_by is not None:
            say(f"not tried: the rest, because {outputs.tally.stopped_by}")
        for sentence in resume.sentences(outputs.tally, ended=ended):
            say(sentence)
        if making.note and outputs.tally.done:
            say(making.note)
        outputs.finish_page(source, making.note, ended=ended)
    if failure is not None:
        raise failure
    if making.not_saved:
        say(f"{plural(making.not_saved, 'picture')} not downloaded; the same command tries again")
    return stopped or (0 if ended and not outputs.tally.failed and not making.not_saved else 1)
