"""How long digits take to load, and the library to import, against the usual ways: `python -m bench.data`.

All ways take turns, round after round, so that a slow minute of the machine hits them alike; the medians are compared. Ratios are
what counts: seconds differ from machine to machine. Writes bench/data.json and bench/data.md.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from bench.common import HEAD, HERE, Others, goal, goal_lines, machine, publish, take_turns, warning
from pixels_to_resnet.data import load_digits, read_folder
from pixels_to_resnet.layouts import LAYOUTS
from pixels_to_resnet.pictures import list_png_folder, read_png_folder
from pixels_to_resnet.sources import digits_path
from tools.course import script

PIL_LOOP, DECODE, FIRST, CACHED = "loop over PIL", "first decode", "first decode, and the cache written", "from the cache"
FASTAI = "import fastai.vision.all"
LIBRARY, HELP = "import pixels_to_resnet.data", "climb --help"
COMMANDS = {
    FASTAI: ["-c", FASTAI],
    LIBRARY: ["-c", LIBRARY],
    "import pixels_to_resnet.climb": ["-c", "import pixels_to_resnet.climb"],
    HELP: None,
    "import torch (for comparison)": ["-c", "import torch"],
    "python, nothing imported": ["-c", "pass"],
}
GOALS = {
    ("C8", DECODE): (1.9, 3), ("C8, again", CACHED): (100, None),
    ("C9", LIBRARY): (3.7 / 1.2, 3.7 / 1.05), ("C9, help", HELP): (3.7 / 0.5, 3.7 / 0.3),
}  # fmt: skip


def loop_over_pil(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a folder of pictures, one file after the other, as most tutorials do it."""
    images, labels = [], []
    for label, paths in list_png_folder(folder).items():
        for path in paths:
            with Image.open(path) as picture:
                images.append(np.array(picture))
            labels.append(label)
    return np.stack(images), np.array(labels)


def loading(folders: list[Path], home: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds for all digits in `folders`, whose array cache is in `home`."""

    def first() -> list[Any]:
        for file in (home / "arrays").glob("*.safetensors"):
            file.unlink()
        return cached()

    def cached() -> list[Any]:
        return [read_folder(folder) for folder in folders]

    ways = {PIL_LOOP: lambda: [loop_over_pil(f) for f in folders], DECODE: lambda: [read_png_folder(f) for f in folders]}
    same = [np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(*(way() for way in ways.values()))]
    if not all(same):
        raise SystemExit("the ways do not read the same digits")
    return take_turns(ways | {FIRST: first, CACHED: cached}, rounds)


def starting(rounds: int) -> dict[str, list[float]]:
    """Seconds of whole processes that import something and end."""

    def process(arguments: list[str] | None) -> Callable[[], Any]:
        command = [sys.executable, *arguments] if arguments else [script("climb"), "--help"]
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return take_turns({name: process(arguments) for name, arguments in COMMANDS.items()}, rounds)


def rows(seconds: dict[str, list[float]], n: int = 0) -> list[dict[str, Any]]:
    """For each way its median, range, and how many times faster than the first it is."""
    anchor = median(next(iter(seconds.values())))
    return [
        {"way": way, "images": n, "median": round(median(taken), 5), "least": round(min(taken), 5), "most": round(max(taken), 5),
         "times_faster": round(anchor / median(taken), 2), "rounds": len(taken)}
        for way, taken in seconds.items()
    ]  # fmt: skip


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    about = report["machine"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", "numpy", "pillow", "torch", "fastai"))
    lines = [
        "# Loading digits and importing the library", "",
        f"Written by `python -m bench.data`. {about['cpu']}, {about['cores']} cores, {about['system']}; {versions}. Digits: {report['dataset']}. "
        "The ways take turns; medians of the rounds, in seconds. The pictures are in the operating system's memory, so no disk is measured; "
        "what comes from the cache is checked, byte by byte, as always.", "",
        "| images | way | median | least to most | times faster |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in report["rows"]:
        n = f"{row['images']:,}" if row["images"] else ""
        spread = f"{row['least']:.4f} to {row['most']:.4f}"
        lines.append(f"| {n} | {row['way']} | {row['median']:.4f} | {spread} | {row['times_faster']:.1f} |")
    return "\n".join([*lines, "", *HEAD, *goal_lines(report["goals"]), *warning(report)]) + "\n"


def reached(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Goals C8, the smaller set of pictures, and C9: each way's times faster than the usual one."""
    n = min((row["images"] for row in table if row["images"]), default=0)
    found = {(row["images"], row["way"]): row for row in table}
    goals = []
    for (name, way), limits in GOALS.items():
        images, usual = (n, PIL_LOOP) if name.startswith("C8") else (0, FASTAI)
        ours, taken = found[images, way], found[images, usual]["median"]
        what = f"{n:,} pictures, {way}: times faster" if images else f"{way}: times faster"
        goals.append(goal(name, what, f"{usual}, {taken:.2f} s", ours["times_faster"], *limits))
    return goals


def pictures() -> list[list[Path]]:
    """The folders of the training 3s and 7s, and those of all digits."""
    parts = list(LAYOUTS["mnist_png"].folders.values())
    return [[digits_path("mnist_sample") / "train"], [digits_path("mnist_png") / part for part in parts]]


def measure(rounds: int, folder: Path | None = None) -> dict[str, Any]:
    """Everything, in a home of its own; of a single `folder` of pictures, if it is given."""
    with tempfile.TemporaryDirectory(prefix="bench") as home, mock.patch.dict(os.environ, PIXELS_TO_RESNET_HOME=home), Others() as others:
        dataset, found = folder.parent.name if folder else load_digits().dataset, []
        for folders in [[folder]] if folder else pictures():
            n = sum(len(paths) for folder in folders for paths in list_png_folder(folder).values())
            found += rows(loading(folders, Path(home), rounds), n)
        found += rows(starting(rounds))
    return {"machine": machine(), "dataset": dataset, "threads": 1, "load": others.cores, "rows": found, "goals": reached(found)}


def main(argv: list[str] | None = None, folder: Path | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.data", description="Measure loading and importing.")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="how many rounds (default: 7)")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where data.json and data.md go (default: bench)")
    args = parser.parse_args(argv)
    report = measure(args.rounds, folder)
    publish("data", report, as_markdown(report), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
