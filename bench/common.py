"""What all benchmarks share: the machine they ran on, ways that take turns, and a report that is saved whole or not at all."""
from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pixels_to_resnet.safe_files import write_beside


def machine() -> dict[str, Any]:
    """What was measured on, in general terms."""
    names = [line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")]
    libraries = {name: version(name) for name in ("numpy", "pillow", "torch", "fastai")}
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version(), **libraries}


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def publish(name: str, report: dict[str, Any], page: str, out: Path) -> None:
    """Write NAME.json and NAME.md into `out`, both or neither, and print the page."""
    with write_beside(out / f"{name}.json") as data, write_beside(out / f"{name}.md") as text:
        data.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        text.write_text(page, encoding="utf-8")
    print(page, end="")


def take_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; one more round goes before and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            result = way()
            taken = time.perf_counter() - begun
            del result
            if number:
                seconds[name].append(taken)
    return seconds
