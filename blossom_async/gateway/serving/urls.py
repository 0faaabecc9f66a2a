"""What the URL of a picture says: which picture, its format and width, and what follows the question mark."""

from __future__ import annotations

import re
from functools import lru_cache

import attrs

from blossom_async.errors import NotFound
from blossom_async.models import FORMATS, IMAGE_ID, WIDTH

__all__ = ["PictureUrl", "no_picture", "picture_url"]

_CACHED = 4096
_FORMATS = "|".join((*FORMATS, "auto"))
_PATH = re.compile(
    rf"/image/(?P<id>{IMAGE_ID})(?P<width>{WIDTH})?"
    rf"|/generated/(?P<cdn_id>{IMAGE_ID})(?P<cdn_width>{WIDTH})?\.(?P<extension>{_FORMATS})",
    re.ASCII,
)


@attrs.frozen
class PictureUrl:
    """The URL of a picture. ``path`` and ``query`` are exactly as sent, not decoded.

    ``path`` is that of the whole picture, without ``/w640``: what a signature covers. ``width`` is None for
    the whole picture, ``extension`` for ``/image/{id}``, ``query`` without a question mark.
    """

    path: str
    image_id: str
    extension: str | None
    width: int | None
    query: str | None


@lru_cache(maxsize=_CACHED)
def picture_url(path: str, target: str) -> PictureUrl:
    """Parses the raw path and the raw target of a request. Raises ``NotFound`` for any other path."""
    # The raw path: aiohttp's decoded parameters turn %2e%2e%2f into "../" and %00 into NUL.
    found = _PATH.fullmatch(path)
    if found is None or "#" in target:
        raise no_picture()
    _, mark, query = target.partition("?")
    name = "width" if found["width"] else "cdn_width"
    width = found[name]
    return PictureUrl(
        path=path if width is None else path[: found.start(name)] + path[found.end(name) :],
        image_id=found["id"] or found["cdn_id"],
        extension=found["extension"],
        width=None if width is None else int(width.removeprefix("/w")),
        query=query if mark else None,
    )


def no_picture() -> NotFound:
    """The answer for a picture that does not exist, and for one whose existence this viewer may not know."""
    return NotFound("There is no picture under this URL.")
