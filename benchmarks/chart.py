"""Draws ``performance.svg`` from the raw figures in ``results/`` and ``engine/results/``.

Run: python benchmarks/chart.py
"""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH = 900
ROW, HEAD, GAP = 26, 48, 22
LEFT, RIGHT = 250, 120
STYLE = """
text{font:14px system-ui,sans-serif;fill:#1f1a1d}.t{font-weight:600;font-size:15px}.n{fill:#5f565b}
.us{fill:#c2447c}.them{fill:#b9b0b5}
@media(prefers-color-scheme:dark){text{fill:#f3edf0}.n{fill:#b3a9ae}.them{fill:#5d5459}.us{fill:#e8729f}}
""".replace("\n", "")

Bars = list[tuple[str, float, str]]


def main() -> None:
    (HERE / "performance.svg").write_text(svg(panels()), "utf-8")


def panels() -> list[tuple[str, Bars]]:
    """Title and bars: name, length, and what is written beside it. Shorter is better in all of them."""
    overhead = _read("engine/results/overhead.json")["numbers"]
    memory = _read("engine/results/memory.json")["numbers"]
    http = _read("results/batch_http.json")["rounds"]
    per_call = {name: min(row["client_cpu_us_per_call"] for row in rows) for name, rows in http.items()}
    return [
        (
            "Engine cost of an item, microseconds (log scale)",
            [
                (name, row["best"], f"{row['best']:.1f}")
                for name, row in overhead.items()
                if "every" not in name
            ],
        ),
        (
            "Client CPU of one HTTP call in a batch, microseconds (log scale)",
            [(name, us, f"{us:.0f}") for name, us in per_call.items()],
        ),
        (
            "Memory grown by a million streamed items, MiB (log scale)",
            [(name, max(row["1000000"], 0.1), f"{row['1000000']:,.1f}") for name, row in memory.items()],
        ),
    ]


def svg(drawn: list[tuple[str, Bars]]) -> str:
    parts = []
    y = 0
    for title, bars in drawn:
        y += HEAD
        parts.append(f'<text class="t" x="16" y="{y - 18}">{escape(title)}</text>')
        least = min(length for _, length, _ in bars) / 2
        most = max(length for _, length, _ in bars)
        for name, length, said in sorted(bars, key=lambda bar: bar[1]):
            span = (WIDTH - LEFT - RIGHT) * math.log(length / least) / math.log(most / least)
            kind = "us" if name.startswith("blossom") else "them"
            parts.append(f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{span:.1f}" height="18" rx="3"/>')
            parts.append(f'<text class="n" x="{LEFT + span + 8:.1f}" y="{y + 14}">{said}</text>')
            y += ROW
        y += GAP
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>\n{body}\n</svg>\n'


def _read(name: str) -> Any:
    return json.loads((HERE / name).read_text("utf-8"))


if __name__ == "__main__":
    main()
