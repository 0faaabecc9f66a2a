"""Where the results of a batch go: the file of ``--out``, the gallery page, standard output."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from blossom_async.cli.gallery import Gallery
from blossom_async.cli.prompts.file import PromptFile
from blossom_async.cli.results import JsonLines, Result, Shown, Tally, json_stdout
from blossom_async.cli.words import CannotStart, duration, plural, say, stdout_checked

__all__ = ["Outputs", "check_files"]


_OTHER_FORMATS = {".csv", ".tsv", ".xlsx", ".parquet", ".html"}


def check_files(source: PromptFile, files: Mapping[str, Path | None]) -> None:
    """Raises ``CannotStart`` if two of the files are one, or one is the file with the prompts.

    Also if the name of one is that of another format.

    ``files`` maps the name of an option to its file.
    """
    taken: dict[Path, str] = {}
    for name, path in files.items():
        if path is None:
            continue
        if name == "--out" and path.suffix.lower() in _OTHER_FORMATS:
            raise CannotStart(
                f"{name} {path}: lines of JSON are written there; name a file that ends in .jsonl"
            )
        if source.is_same(path):
            raise CannotStart(f"{name} {path}: that is the file with the prompts; name another file")
        if (first := taken.setdefault(_resolved(path, name), name)) != name:
            raise CannotStart(f"{name} {path}: that is the file of {first}; name another file")


def _resolved(path: Path, name: str) -> Path:
    try:
        resolved = path.resolve()
        looped = resolved.is_symlink()  # from Python 3.13 on a loop is left as it is
    except (OSError, RuntimeError) as exc:  # before that a loop is a RuntimeError
        reason = getattr(exc, "strerror", None) or "a loop of symbolic links"
        raise CannotStart(f"{name} {path}: {reason}; name another file") from exc
    if looped:
        raise CannotStart(f"{name} {path}: a loop of symbolic links; name another file")
    return resolved


class Outputs:
    """The open files of one run, and the ``tally`` of what was written to them.

    Opened before any picture is made. Raises ``CannotStart`` if one of them cannot be written.
    """

    def __init__(self, *, out: Path | None, gallery: Path | None, as_json: bool, all_rows: bool) -> None:
        self.tally: Tally = Tally()
        self._as_json = as_json
        self._shown = Shown(all_rows=all_rows)
        self._page = gallery
        with ExitStack() as opened:
            self.gallery: Gallery | None = (
                None if gallery is None else opened.enter_context(closing(Gallery(gallery)))
            )
            self._out = None if out is None else opened.enter_context(closing(JsonLines(out)))
            self._opened = opened.pop_all()

    def add(self, result: Result) -> None:
        """Writes a result everywhere but to the gallery, whose cards wait for their thumbnails."""
        if self._out is not None:
            self._out.add(result)
        self.tally.add(result)
        if self._as_json:
            json_stdout(result)
        else:
            self._shown.add(result)

    def show(self) -> None:
        """Prints the table, unless each result was printed as JSON."""
        if not self._as_json:
            with stdout_checked():
                self._shown.write(Console(soft_wrap=False))

    def finish_page(self, source: str, note: str, *, ended: bool) -> None:
        """Puts the gallery page in its place, if there is one and it has a card."""
        tally = self.tally
        if self.gallery is None or not (tally.done or tally.failed):
            return
        made = (
            f"{tally.done:,} of {tally.done + tally.failed:,}" if ended else f"{tally.done:,}, then stopped"
        )
        facts = [("Pictures", made), ("Time", duration(tally.elapsed_s))]
        if tally.reused:
            facts.insert(1, ("Made before", f"{tally.reused:,}"))
        if tally.per_second:
            facts.append(("Pace", f"{tally.per_second:.1f}/s"))
        facts.append(("Credits", f"{tally.credits:,}"))
        title = plural(tally.done, "picture")
        self.gallery.finish(title, Path(source).name, facts, note, datetime.now(UTC))
        say(f"gallery: {self._page}")

    def close(self) -> None:
        """Closes the files."""
        self._opened.close()
