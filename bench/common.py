"""What all benchmarks share: the machine and what it can do at best, ways that take turns, goals, bars, reports saved whole or not at all."""
from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pixels_to_resnet.safe_files import write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
DARK, LIGHT, BUSY = "#1f4e79", "#b8c4ce", 0.3
HEAD = ["| goal | | against | found | goal | stretch | reached |", "|---|---|---|---|---|---|---|"]


def machine() -> dict[str, Any]:
    """What was measured on, in general terms."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    libraries = {name: _version(name) for name in ("numpy", "pillow", "torch", "torchvision", "fastai")}
    cpu = names[0] if names else platform.processor() or platform.machine()
    found = {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version(), **libraries}
    return found | ({"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if torch.cuda.is_available() else {})


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _lines(name: str) -> list[str]:
    path = Path(name)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


class Others:
    """`cores`: how many cores other programs kept busy, on average, inside `with Others() as others`. Children that have ended count as ours.

    Where the system does not tell how long its cores were busy, `cores` is its load at the beginning."""

    def __init__(self) -> None:
        self.cores = 0.0

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, of all cores that were busy or taken away, of this process and its children."""
        ticks = next(([int(word) for word in line.split()[1:9]] for line in _lines("/proc/stat") if line.startswith("cpu ")), None)
        total = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") if ticks else float("nan")
        return time.perf_counter(), total, sum(os.times()[:4])

    def __enter__(self) -> Others:
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        self.begun = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        taken, busy, ours = (now - before for now, before in zip(self._now(), self.begun))
        self.cores = round(max(0.0, (busy - ours) / taken) if busy == busy else self.load, 2)


def warning(report: dict[str, Any]) -> list[str]:
    """Lines that say that the machine was not quiet, if it was not: `report["load"]` is what `Others` found."""
    if report["load"] <= BUSY:
        return []
    return ["", f"**Other programs were running: they kept {report['load']:.2f} cores busy on average. Measure again on a quiet machine.**"]


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


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Inside, PyTorch uses `n` threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def onednn() -> Iterator[None]:
    """Inside, products of 32-bit matrices go to oneDNN, if PyTorch can be told so and they are as precise there; afterwards as before."""
    setting = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(setting, "fp32_precision"):
        yield
        return
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((256, 784), (784, 32)))
    true, usual, before = a.double() @ b.double(), a @ b, setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        if (a @ b - true).abs().max() > 4 * (usual - true).abs().max():
            setting.fp32_precision = before
        yield
    finally:
        setting.fp32_precision = before


def best(work: Callable[[], Any], seconds: float = 0.3) -> float:
    """The least of the times that `work` takes within about `seconds`, and of at least three."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def rates(seconds: float = 0.3) -> dict[str, float]:
    """What this machine reads (GB/s) and multiplies (GFLOP/s of large square matrices) with the threads in force: the best of several times."""
    n, memory = 1536, torch.ones(64 * 2**20)
    a, b = torch.rand(n, n), torch.rand(n, n)
    found = {"reading": memory.nbytes / best(lambda: memory.sum(), seconds), "fp32 products": 2 * n**3 / best(lambda: a @ b, seconds)}
    with onednn():
        found["fp32 products by oneDNN"] = 2 * n**3 / best(lambda: a @ b, seconds)
    a, b = a.bfloat16(), b.bfloat16()
    found["bfloat16 products"] = 2 * n**3 / best(lambda: a @ b, seconds)
    return {name: value / 1e9 for name, value in found.items()}


def goal(
    name: str, what: str, against: str, found: float | None, wanted: float, stretch: float | None = None, at_most: bool = False, valid: bool = True
) -> dict[str, Any]:
    """A goal and what was found: "stretch", "goal" or "missed". `valid` is false if a condition besides is not met, such as an accuracy.

    `at_most` says that less is better. Without a value that was found, the goal was "not attempted"."""

    def meets(limit: float | None) -> bool:
        return limit is not None and valid and (found <= limit if at_most else found >= limit)

    said = "not attempted" if found is None else "stretch" if meets(stretch) else "goal" if meets(wanted) else "missed"
    about = {"name": name, "what": what, "against": against, "found": found, "goal": wanted, "stretch": stretch}
    return {**about, "at_most": at_most, "valid": valid, "reached": said}


def short(value: float | None) -> str:
    """Three digits of a number or a few more, or nothing."""
    return "" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3g}"


def goal_lines(goals: Iterable[dict[str, Any]]) -> list[str]:
    """Goals as lines of a table under `HEAD`."""
    lines = []
    for g in goals:
        limits = " | ".join(f"{'at most ' if g['at_most'] else ''}{short(g[key])}" if g[key] is not None else "" for key in ("goal", "stretch"))
        lines.append(f"| {g['name']} | {g['what']} | {g['against']} | {short(g['found'])} | {limits} | {g['reached']} |")
    return lines


def bars(ax: Axes, rows: Iterable[tuple[str, float, str, str]], unit: str, log: bool = False) -> None:
    """Bars, from the top, one for each of `rows`: its name, its length in `unit`, "ours", "theirs" or "floor", and what is written at its end."""
    rows = list(rows)
    lengths = [length for _, length, _, _ in rows]
    for i, (_, length, kind, said) in enumerate(rows):
        colour = {"ours": DARK, "theirs": LIGHT, "floor": "white"}[kind]
        ax.barh(-i, length, color=colour, hatch="///" if kind == "floor" else None, edgecolor="black")
        place = length * 1.05 if log else length + max(lengths) / 100
        ax.text(place, -i, said, va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    ax.set(yticks=[-i for i in range(len(rows))], yticklabels=[row[0] for row in rows], xlabel=unit, xscale="log" if log else "linear")
    ax.set_xlim(*((min(lengths) / 1.5, 3 * max(lengths)) if log else (0, 1.2 * max(lengths))))


def mark(ax: Axes, place: float, name: str, line: str = "--") -> None:
    """A line across the bars, with its name above."""
    ax.axvline(place, color="black", linestyle=line, linewidth=1)
    ax.text(place, 1.01, name, fontsize=8, ha="center", va="bottom", transform=ax.get_xaxis_transform())
