"""Batches of pictures: what they take, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, overload

from blossom_async.batch import BatchResult, Outcome, Progress
from blossom_async.batch.gate import RateLimitLike
from blossom_async.models import ImageInfo, ImageOptions, ImageRequest

__all__ = ["RUN_OPTIONS", "BatchOptions", "Request", "UrlBatch"]

Request = ImageRequest | Mapping[str, Any] | str
"""One entry of a batch: a request, a mapping of its options, or a prompt alone."""


class BatchOptions(ImageOptions, total=False):
    """What batch calls take: the options of every picture, and how the batch is to run.

    ``max_concurrency`` and ``rate_limit`` narrow the client's own. ``on_progress`` is called after each item.
    ``journal`` is the path of a file in which every finished item is on disk before its result is handed
    out: the same call again, with the same requests and the same file, sends only what is not finished
    there. ``deadline_s`` seconds for the whole batch; untried items have ``NotRun``. ``max_cost`` credits:
    a request is sent only while the sum stays within it. ``dedup`` sends equal requests once and gives all
    of them the answer.
    """

    max_concurrency: int | None
    rate_limit: RateLimitLike | Iterable[RateLimitLike] | None
    on_progress: Callable[[Progress], object] | None
    journal: str | PathLike[str] | None
    deadline_s: float | None
    max_cost: float | None
    dedup: bool


RUN_OPTIONS = tuple(BatchOptions.__annotations__.keys() - ImageOptions.__annotations__.keys())


class UrlBatch(Sequence[str | None]):
    """The URLs of a batch in input order, None where an item failed.

    ``infos`` has the ``ImageInfo`` in the same places, ``outcomes`` an ``Outcome`` each.
    """

    def __init__(self, result: BatchResult[Request, ImageInfo]) -> None:
        self._result = result
        self.infos: tuple[ImageInfo | None, ...] = tuple(result)
        self.outcomes: tuple[Outcome[Request, ImageInfo], ...] = result.outcomes
        self.elapsed_s: float = result.elapsed_s

    @property
    def failures(self) -> tuple[Outcome[Request, ImageInfo], ...]:
        """Outcomes of the items that were tried and failed."""
        return self._result.failures

    @property
    def not_run(self) -> tuple[Outcome[Request, ImageInfo], ...]:
        """Outcomes of the items that were never tried because the batch stopped."""
        return self._result.not_run

    @property
    def cost(self) -> int:
        """Credits of the pictures made."""
        return sum(info.cost for info in self.infos if info is not None)

    def raise_for_failures(self) -> None:
        """Raises an ``ExceptionGroup`` when any item has no URL; each leaf's note names index and prompt."""
        self._result.raise_for_failures()

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str | None]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str | None] | None:
        if isinstance(index, slice):
            return [info.url if info else None for info in self.infos[index]]
        info = self.infos[index]
        return info.url if info else None

    def __len__(self) -> int:
        return len(self.infos)

    def __repr__(self) -> str:
        return f"<UrlBatch: {len(self) - self.infos.count(None)} of {len(self)} ok in {self.elapsed_s:.1f} s>"
