"""What all engine benchmarks share: the machine they ran on, repetition, and the file of raw numbers."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def spread(values: list[float]) -> dict[str, float]:
    """Best, median and worst of repeated measurements. On a shared machine the best says most."""
    return {"best": min(values), "median": statistics.median(values), "worst": max(values)}


def save(name: str, load: dict[str, Any], numbers: Any, packages: list[str]) -> None:
    """Keeps the raw numbers with all that is needed to judge them."""
    RESULTS.mkdir(exist_ok=True)
    report = {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "load_before": os.getloadavg()[0],
        },
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "command": f"python benchmarks/engine/{Path(sys.argv[0]).name}",
        "load": load,
        "numbers": numbers,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
