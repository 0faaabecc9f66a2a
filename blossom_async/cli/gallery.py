"""Writes a batch as one self-contained HTML page: thumbnails, prompts, failures and links.

A picture that is shown large comes from its gateway in the width that fits, and from the page while there is
no answer.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import attrs

from blossom_async.cli.results import Result
from blossom_async.cli.words import CannotStart, plural, size
from blossom_async.errors import ConfigurationError
from blossom_async.models import ImageInfo

__all__ = ["Gallery", "Thumbnail", "thumbnail"]

_WIDE, _HIGH = 480, 720  # the largest card on a screen of ordinary density
_LONG = 110  # characters; longer prompts fold
_LINKED_FAILURES = 40
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
_MAX_PIXELS = 4096 * 4096  # what a gateway makes at most
_SHAPES = {"narrow": 9 / 16, "tall": 2 / 3, "square": 1.0, "broad": 4 / 3, "wide": 16 / 9}
_STAND_IN = "offline"  # the built-in renderer
_CODE = re.compile("`([^`]+)`")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]+)?(?=/)")  # what a policy can name


@attrs.frozen
class Thumbnail:
    """A small picture; ``clear`` if it has transparency.

    ``dense_uri`` is the same at twice the pixels, for dense screens; empty if the picture has no more.
    """

    data_uri: str = attrs.field(repr=False)
    width: int
    height: int
    clear: bool
    dense_uri: str = attrs.field(repr=False, default="")


def thumbnail(data: bytes) -> Thumbnail:
    """A thumbnail of a picture. CPU-bound: call it in a thread.

    Raises ``OSError`` unless the bytes are png, jpg, webp or avif, and ``ValueError`` for a picture that is
    too large or broken.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels; allowed: {_MAX_PIXELS:,}")
            picture.draft("RGB", (2 * _WIDE, 2 * _HIGH))
            clear = picture.has_transparency_data
            small = picture.convert("RGBA" if clear else "RGB")
    except (Image.DecompressionBombError, SyntaxError) as exc:  # how Pillow reports some broken files
        raise ValueError(str(exc)) from exc
    whole = small.size
    small.thumbnail((2 * _WIDE, 2 * _HIGH), Image.Resampling.LANCZOS, reducing_gap=2.0)
    dense = small.copy()
    small.thumbnail((_WIDE, _HIGH), Image.Resampling.LANCZOS)
    # Pixels half as wide hide twice the loss: 50 weighs no more than the small one twice.
    dense_uri = _data_uri(dense, quality=50) if whole[0] >= 2 * small.width else ""
    return Thumbnail(_data_uri(small, quality=80), small.width, small.height, clear, dense_uri)


def _data_uri(image: Any, *, quality: int) -> str:
    encoded = BytesIO()
    image.save(encoded, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(encoded.getbuffer()).decode("ascii")


class Gallery:
    """A page that is built card by card and moved into place when it is finished.

    Cards wait in an unnamed file, so memory stays constant and nothing is left behind when the process dies.
    Raises ``CannotStart`` if the page cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failures: list[int] = []
        self._failed = 0
        self._shapes: set[str] = set()
        self._drawn_by: set[str] = set()
        self._origins: set[str] = set()
        if path.exists() and not path.is_file():
            raise CannotStart(f"--gallery {path}: that is a folder or a device; name a regular file")
        try:
            import PIL  # noqa: F401 - fails here, before any picture is made
        except ImportError as exc:
            raise ConfigurationError(
                "--gallery needs Pillow, which is not installed; pip install '.[gateway]' in the checkout"
            ) from exc
        try:
            self._cards: IO[str] = tempfile.TemporaryFile("w+", dir=path.parent, encoding="utf-8")  # noqa: SIM115 - closed by close()
        except OSError as exc:
            raise self._failure(exc) from exc

    def add(self, result: Result, thumb: Thumbnail | None) -> None:
        """Adds a card; without a thumbnail it only links to the picture."""
        if result.info is None:
            self._failed += 1
            if len(self._failures) < _LINKED_FAILURES:
                self._failures.append(result.index + 1)
        else:
            self._shapes.add(_shape(result.info.width, result.info.height))
            self._drawn_by.add("a stand-in" if result.info.provider == _STAND_IN else "a model")
            if thumb is not None and (origin := _origin(result.info)):
                self._origins.add(origin)
        try:
            self._cards.write(_card(result, thumb))
        except OSError as exc:
            raise self._failure(exc) from exc

    def finish(
        self, title: str, source: str, facts: Sequence[tuple[str, str]], note: str, when: datetime
    ) -> None:
        """Writes the page and moves it into place in one step. Text in backticks in ``note`` becomes code."""
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as page:
                    page.write(self._head(title, source, facts, note, when))
                    self._cards.seek(0)
                    shutil.copyfileobj(self._cards, page, 1 << 20)
                    page.write(_FOOT)
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as exc:
            raise self._failure(exc) from exc

    def close(self) -> None:
        """Deletes the cards."""
        self._cards.close()

    def _failure(self, exc: OSError) -> CannotStart:
        return CannotStart(f"--gallery {self._path}: {exc.strerror or exc}; make room, or name another file")

    def _head(
        self, title: str, source: str, facts: Sequence[tuple[str, str]], note: str, when: datetime
    ) -> str:
        rows = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
        date = f"{when:%-d %B %Y, %H:%M} UTC"
        return _HEAD.format(
            title=_text(title),
            source=_text(source),
            csp=_CSP.format(pictures=" ".join(["data:", *sorted(self._origins)])),
            style=_STYLE,
            when=f'<time datetime="{when.isoformat(timespec="seconds")}">{date}</time>',
            facts=rows,
            note=_note(note) if note else "",
            drawn_by=self._stand_in_note(),
            failures=self._failure_links(),
            shape=self._shapes.pop() if len(self._shapes) == 1 else "square",
        )

    def _stand_in_note(self) -> str:
        if "a stand-in" not in self._drawn_by:
            return ""
        which = "The" if len(self._drawn_by) == 1 else "Some"
        return _note(f"{which} pictures were drawn by the built-in offline renderer, a stand-in for a model")

    def _failure_links(self) -> str:
        if not self._failed:
            return ""
        links = " ".join(f'<a href="#p{number}">#{number}</a>' for number in self._failures)
        more = self._failed - len(self._failures)
        rest = f" and {more:,} more" if more else ""
        return f'<p class="note bad"><b>{plural(self._failed, "prompt")} failed:</b> {links}{rest}</p>'


def _card(result: Result, thumb: Thumbnail | None) -> str:
    number = result.index + 1
    prompt = result.prompt or ""
    if result.info is None:
        top = f'<p class="frame broken"><b>No picture</b>{_text(result.error or "")}</p>'
        return _CARD.format(number=number, kind=' class="bad"', top=top, prompt=_prompt(prompt), below="")
    info = result.info
    if thumb is None:
        inside = "The picture was made, its thumbnail was not."
        picture, widths = f'<span class="blank">{inside}</span>', ""
    else:
        clear = ' class="clear"' if thumb.clear else ""
        dense = f' srcset="{thumb.dense_uri} 2x"' if thumb.dense_uri else ""
        alt = _text(prompt if len(prompt) <= 200 else prompt[:199] + "…")
        widths = _widths(info)
        picture = (
            f'<img src="{thumb.data_uri}"{dense} width="{thumb.width}" height="{thumb.height}" alt="{alt}"'
            f' loading="lazy" decoding="async"{clear}>'
        )
    facts = (
        f"<li>{info.width} × {info.height}</li><li>{_text(info.format)}</li><li>{_text(info.quality)}</li>"
        f"<li>{size(info.file_size)}</li><li>seed {info.seed}</li>"
    )
    link, shown = _link(info.url)
    top = f'<a class="frame"{link}{widths}>{picture}</a>'
    copy = f'<button class="copy" type="button" data-copy="{_text(info.url)}" hidden>Copy link</button>'
    below = f'<ul>{facts}</ul><p class="at"><a class="url"{link}>{_text(shown)}</a>{copy}</p>'
    return _CARD.format(number=number, kind="", top=top, prompt=_prompt(prompt), below=below)


def _prompt(prompt: str) -> str:
    if len(prompt) <= _LONG and "\n" not in prompt:
        return f'<p class="prompt" dir="auto">{_text(prompt) or "<i>no prompt</i>"}</p>'
    return f'<details class="prompt"><summary dir="auto"><span>{_text(prompt)}</span></summary></details>'


def _shape(width: int, height: int) -> str:
    """The name of the style sheet's frame nearest to the picture's aspect ratio."""
    if width < 1 or height < 1:  # sizes come from a gateway and are not trusted
        return "square"
    ratio = width / height
    return min(_SHAPES, key=lambda shape: abs(math.log(ratio / _SHAPES[shape])))


def _note(note: str) -> str:
    code = _CODE.sub(r"<code>\1</code>", _text(note[:1].upper() + note[1:]))
    return f'<p class="note">{code}.</p>'


def _link(url: str) -> tuple[str, str]:
    """The attributes of a link to the picture, and its text."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in {"http", "https"}:  # the URL comes from a gateway and is not trusted
        return "", url
    return f' href="{_text(url)}" rel="noreferrer"', url.removeprefix(f"{scheme}://")


def _origin(info: ImageInfo) -> str:
    """Where the page may fetch the picture in its widths; empty if it does not."""
    found = _ORIGIN.match(info.url)
    return found[0] if found and info.widths and info.width > 0 and info.height > 0 else ""


def _widths(info: ImageInfo) -> str:
    """The attributes for ``srcset``, and for ``sizes``: how wide the page shows the enlarged picture."""
    if not _origin(info):
        return ""
    high = 72 * info.width / info.height
    sizes = f"min({info.width}px, 932px, 100vw - 66px, {high:.1f}vh)"
    return f' data-srcset="{_text(info.srcset())}" data-sizes="{sizes}"'


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _part(*names: str) -> tuple[str, str]:
    """Files of the page as one, and its hash as Content-Security-Policy names it."""
    package = resources.files("blossom_async")
    text = "".join(package.joinpath(name).read_text("utf-8") for name in names)
    return text, f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


_STYLE, _STYLE_HASH = _part("cli/gallery.css")
_SCRIPT, _SCRIPT_HASH = _part("gateway/dashboard/copy.js", "cli/gallery.js")
_CSP = (
    f"default-src 'none'; img-src {{pictures}}; style-src {_STYLE_HASH}; script-src {_SCRIPT_HASH}; "
    "base-uri 'none'; form-action 'none'"
)

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{csp}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title} from {source}</title>
<style>{style}</style>
</head>
<body>
<header>
<svg viewBox="-12 -12 24 24" aria-hidden="true"><g class="petals">\
<path d="M0 0C-6-3-5-11 0-10 5-11 6-3 0 0Z"/>\
<path d="M0 0C-6-3-5-11 0-10 5-11 6-3 0 0Z" transform="rotate(72)"/>\
<path d="M0 0C-6-3-5-11 0-10 5-11 6-3 0 0Z" transform="rotate(144)"/>\
<path d="M0 0C-6-3-5-11 0-10 5-11 6-3 0 0Z" transform="rotate(216)"/>\
<path d="M0 0C-6-3-5-11 0-10 5-11 6-3 0 0Z" transform="rotate(288)"/></g><circle r="2.2"/></svg>
<div><h1>{title}</h1><p>from <span dir="auto">{source}</span>, {when}</p></div>
<dl>{facts}</dl>
{note}
{drawn_by}
{failures}
</header>
<main>
<ol role="list" class="{shape}">
"""
_CARD = """<li id="p{number}"{kind}><article>{top}<div class="words"><span class="number">{number}</span>\
{prompt}{below}</div></article></li>
"""
_FOOT = f"""</ol>
</main>
<footer>Made with blossom_async</footer>
<dialog aria-label="Picture">
<p dir="auto"></p>
<div><button type="button" name="previous">Previous</button> <button type="button" name="next">Next</button>
<span aria-live="polite"></span>
<button class="copy" type="button" name="copy" data-copy="" hidden>Copy link</button>
<button type="button" name="close">Close</button></div>
</dialog>
<script type="module">{_SCRIPT}</script>
</body>
</html>
"""
