"""An order: one picture, who asked for it, and under which idempotency key."""

from __future__ import annotations

import hashlib
import secrets
import string
from typing import Any

import attrs

from blossom_async.errors import Rejected
from blossom_async.gateway.making.callers import Callers
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.providers import Inputs, Show
from blossom_async.models import MAX_SEED, ImageRequest, draws_from_pictures, to_json

__all__ = ["Order", "again", "new_id"]

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


@attrs.frozen(kw_only=True)
class Order:
    """A request for one picture. ``payer`` is the name of the API key whose budget pays for it.

    Without ``preview`` nobody is shown one now. ``inputs`` are the files that an ``OpenAIRequest`` names,
    ``watch`` is shown the pictures on the way. The same ``tenant`` and ``key`` with an equal
    ``fingerprint`` ask for the same picture.
    """

    request: ImageRequest
    tenant: str
    payer: str
    key: str | None
    priority: Priority
    preview: bool = True
    inputs: Inputs | None = attrs.field(default=None, eq=False)
    watch: Show | None = attrs.field(default=None, eq=False, repr=False)
    fingerprint: str = attrs.field(init=False)
    callers: Callers = attrs.field(init=False, eq=False)

    @fingerprint.default
    def _fingerprint(self) -> str:
        return hashlib.sha256(to_json(self.request)).hexdigest()

    @callers.default
    def _callers(self) -> Callers:
        hurried = self.priority is Priority.INTERACTIVE and not self.request.defer
        return Callers(self.priority, hurried=hurried, preview=self.preview)

    def pinned(self) -> ImageRequest:
        """The request with a seed: its own, or a random one."""
        if self.request.seed is not None:
            return self.request
        return attrs.evolve(self.request, seed=secrets.randbits(MAX_SEED.bit_length()))


def again(request: ImageRequest) -> dict[str, Any]:
    """The options with which the picture can be made again.

    Raises ``Rejected`` for one that was drawn from pictures: those are not kept.
    """
    if draws_from_pictures(request):
        raise Rejected(
            "this picture was drawn from others, which are not kept; send those to /v1/images/edits again",
            code="drawn_from_pictures",
        )
    return {field.name: getattr(request, field.name) for field in attrs.fields(ImageRequest)}


def new_id() -> str:
    """A new id for a picture: 128 random bits in base62, 22 characters."""
    number = secrets.randbits(128)
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
