"""How the same command goes on where it stopped: which journal it keeps, and what to tell the user."""

from __future__ import annotations

from pathlib import Path

import attrs

from blossom_async.cli.results import Tally
from blossom_async.cli.words import CannotStart, plural
from blossom_async.errors import JournalMismatch

__all__ = ["Resuming", "resuming"]


@attrs.frozen
class Resuming:
    """The ``journal`` that finished items are kept in, None for none. ``named``: the user chose it."""

    journal: Path | None
    named: bool

    def advised(self, failure: Exception) -> Exception:
        """The failure, with what to do about a journal that the user did not choose."""
        if not isinstance(failure, JournalMismatch) or self.named:
            return failure
        advised = CannotStart(f"{failure}; choose another --out, or --no-journal to begin anew")
        advised.__cause__ = failure
        return advised

    def sentences(self, tally: Tally, *, ended: bool) -> list[str]:
        """What was reused, and what the same command will do next."""
        said = []
        if tally.reused:
            said.append(
                f"{plural(tally.reused, 'picture')} of these had been finished before: {self.journal}"
            )
        if not ended and self.journal is None:
            said.append("the same command starts over; with --out or --journal it would go on from here")
        elif not ended:
            said.append("the same command goes on from here")
        elif self.journal is not None and tally.failed:
            said.append("the same command tries the failed ones again")
        return said


def resuming(*, journal: Path | None, no_journal: bool, out: Path | None) -> Resuming:
    """From the options: the named journal, else one beside ``--out`` where that is a regular file.

    Raises ``CannotStart`` for both ``--journal`` and ``--no-journal``.
    """
    if no_journal and journal is not None:
        raise CannotStart("--journal and --no-journal exclude each other; give one of them")
    if journal is not None or no_journal:
        return Resuming(journal, named=True)
    if out is not None and (out.is_file() or not out.exists()):
        return Resuming(out.with_name(f"{out.name}.journal"), named=False)
    return Resuming(None, named=False)
