"""Bytes, likeness and time of 50 pictures by format and by what is asked for.

Run: uv run --extra all python benchmarks/weight.py [FORMAT ...]
Of formats that are not named, the figures of the last run stay. "of auto" is what format="auto" stores in
webp and avif: the time of both, and the bytes of the lighter.
The pictures are the built-in renderer's at 1024x1024. Likeness is the mean structural similarity of the file
that was written to the pixels that went in: of brightness, as Wang et al. 2004 define it, with a window
at every pixel; and of the worst of red, green and blue, which the halved colour of jpg and webp lowers.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blossom_async.gateway.making.encoding import (
    Encoded,
    dominant_colour,
    encode,
    lighter_avif,
    thumbhash,
    warm_up,
)
from blossom_async.models import FORMATS
from blossom_async.scenery import paint

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
PICTURES = 50
SIDE = 1024
NOTES = "blossom_async offline renderer"
OF_AUTO = {"format": "auto"}
ASKED: dict[str, dict[str, str]] = {
    "default": {},
    "none": {"compression": "none"},
    "lossless": {"compression": "lossless"},
    "lossy": {"compression": "lossy"},
    "auto": {"compression": "auto"},
    "web_optimized": {"preset": "web_optimized"},
    "thumbnail": {"preset": "thumbnail"},
    "print": {"preset": "print"},
    "of auto": OF_AUTO,
}

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]
Row = dict[str, list[float]]


def prompts() -> list[str]:
    lines = (EXAMPLES / "prompts.txt").read_text("utf-8").splitlines()
    own = [line for line in lines if line and not line.startswith("#")]
    with (EXAMPLES / "partiprompts.tsv").open(encoding="utf-8", newline="") as file:
        others = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    missing = PICTURES - len(own)
    return own + list(islice(others, 0, None, len(others) // missing))[:missing]


def similarity(one: Plane, other: Plane) -> float:
    """Mean structural similarity of two planes of 0..255."""
    mean, mean_other = blurred(one), blurred(other)
    variance = blurred(one * one) - mean**2
    variance_other = blurred(other * other) - mean_other**2
    covariance = blurred(one * other) - mean * mean_other
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    same = (2 * mean * mean_other + c1) * (2 * covariance + c2)
    apart = (mean**2 + mean_other**2 + c1) * (variance + variance_other + c2)
    return float((same / apart).mean(dtype=np.float64))


def blurred(plane: Plane) -> Plane:
    """Through the paper's window: 11 pixels, sigma 1.5; without the margin where it does not fit."""
    weights = np.exp(-(((np.arange(11) - 5) / 1.5) ** 2) / 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for _ in range(2):
        length = plane.shape[0] - 10
        total = weights[0] * plane[:length]
        for n in range(1, 11):
            total += weights[n] * plane[n : n + length]
        plane = total.T
    return plane


def brightness(pixels: Pixels) -> Plane:
    return pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def likeness(pixels: Pixels, read: Pixels) -> tuple[float, float]:
    colour = [
        similarity(pixels[:, :, n].astype(np.float32), read[:, :, n].astype(np.float32)) for n in range(3)
    ]
    return similarity(brightness(pixels), brightness(read)), min(colour)


def measure(pictures: list[Pixels], file_format: str, asked: dict[str, str]) -> Row:
    row: Row = {"bytes": [], "ssim": [], "ssim_colour": [], "cpu_ms": []}
    for pixels in pictures:
        before = time.thread_time()
        made = written(pixels, file_format, asked)
        row["cpu_ms"].append((time.thread_time() - before) * 1000)
        row["bytes"].append(len(made.data))
        if (made.width, made.height) == (SIDE, SIDE):
            read = np.asarray(Image.open(io.BytesIO(made.data)).convert("RGB"))
            brightness_ssim, colour_ssim = likeness(pixels, read)
            row["ssim"].append(brightness_ssim)
            row["ssim_colour"].append(colour_ssim)
    return row


def written(pixels: Pixels, file_format: str, asked: dict[str, str]) -> Encoded:
    if asked != OF_AUTO:
        return encode(pixels, file_format, **asked, notes=NOTES)
    webp = encode(pixels, "webp", compression="lossy", notes=NOTES)
    return lighter_avif(pixels, webp.data, preset=None, notes=NOTES, mark=b"") or webp


def main() -> None:
    warm_up()
    wanted = sys.argv[1:] or list(FORMATS)
    results = HERE / "results" / "weight.json"
    pictures = [paint(prompt, width=SIDE, height=SIDE, seed=n) for n, prompt in enumerate(prompts())]
    rows: dict[str, Row] = json.loads(results.read_text("utf-8"))["rows"]
    print(
        "| format | asked for | kB, mean | of the default's, all | the heaviest | over half "
        "| SSIM, least | mean | colour, least | CPU ms, median | most |"
    )
    print("|---" * 11 + "|")
    for file_format in wanted:
        for name, asked in ASKED.items():
            if name == "lossless" and file_format in {"jpg", "avif"}:
                continue
            if name == "of auto" and file_format != "avif":
                continue
            row = rows[f"{file_format} {name}"] = measure(pictures, file_format, asked)
            plain = rows[f"{file_format} default"]["bytes"]
            shares = [mine / default for mine, default in zip(row["bytes"], plain, strict=True)]
            alike = "- | - | -"
            if row["ssim"]:
                alike = f"{min(row['ssim']):.3f} | {statistics.mean(row['ssim']):.3f} "
                alike += f"| {min(row['ssim_colour']):.3f}"
            print(
                f"| {file_format} | {name} | {statistics.mean(row['bytes']) / 1000:.0f} "
                f"| {sum(row['bytes']) / sum(plain):.2f} | {max(shares):.2f} "
                f"| {sum(share > 0.5 for share in shares)} | {alike} "
                f"| {statistics.median(row['cpu_ms']):.0f} | {max(row['cpu_ms']):.0f} |",
                flush=True,
            )
    for preview in (thumbhash, dominant_colour):
        spent = []
        for pixels in pictures:
            before = time.thread_time()
            preview(pixels)
            spent.append((time.thread_time() - before) * 1000)
        rows[preview.__name__] = {"cpu_ms": spent}
        print(f"{preview.__name__}: {statistics.median(spent):.1f} ms, at most {max(spent):.1f}")
    rounded = {
        name: {kind: [round(x, 4) for x in xs] for kind, xs in row.items()} for name, row in rows.items()
    }
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("pillow", "numpy", "isal")},
        "pictures": {"count": PICTURES, "side": SIDE},
        "rows": rounded,
    }
    results.write_text(json.dumps(report) + "\n", "utf-8")


if __name__ == "__main__":
    main()
