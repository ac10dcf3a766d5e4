"""`python -m tools.notebooks`: run every notebook from top to bottom in a fresh kernel and save its outputs.

A notebook is saved only when all of it ran, and in one step. Saved outputs are those of real MNIST; on the stand-in nothing is saved.
The digits are written as folders of pictures before the first notebook runs, so that no saved output depends on who made them.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat

from pixels_to_resnet.idx import DataError
from pixels_to_resnet.sources import digits_path
from tools.course import ROOT, digits_in_force, notebook_paths, script
from tools.execute import NotebookFailed, execute


def save(notebook: Any, path: Path, root: Path = ROOT) -> None:
    """Write beside `path`, clean that, then rename it: an interruption leaves the old notebook or the new one."""
    beside = path.with_name(f".{path.stem}.new.ipynb")
    try:
        nbformat.write(notebook, beside)
        subprocess.run([script("nbdev_clean"), "--fname", str(beside)], cwd=root, check=True)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def chosen(names: list[str], root: Path = ROOT) -> list[Path]:
    """The notebooks whose path, file name or stem is among `names`, in order; all of them for no names. Raises ValueError."""
    paths = notebook_paths(root)
    keys = {p: {p.relative_to(root).as_posix(), p.name, p.stem} for p in paths}
    unknown = [name for name in names if not any(name in known for known in keys.values())]
    if unknown:
        raise ValueError(f"no notebook is called {unknown[0]}; choose from {', '.join(p.stem for p in paths)}")
    return [p for p in paths if not names or keys[p].intersection(names)]


def run_and_save(path: Path, root: Path = ROOT, keep: bool = True, slow: bool = False) -> float:
    """Run one notebook, its slow cells only if `slow`, save it if `keep`; the seconds it took. Raises NotebookFailed, the file being untouched."""
    begin = time.perf_counter()
    notebook = execute(path, timeout=3600 if slow else 300, slow=slow)
    seconds = time.perf_counter() - begin
    if keep:
        save(notebook, path, root)
    return seconds


def note_times(file: Path, seconds: dict[str, float]) -> None:
    """Add measured seconds to a JSON file of them."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    merged = {**old, **{name: round(value, 1) for name, value in seconds.items()}}
    file.write_text(json.dumps(dict(sorted(merged.items())), indent=1) + "\n", encoding="utf-8", newline="\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebooks",
        description="Run notebooks top to bottom and save their outputs. "
        "Real MNIST is needed: set PIXELS_TO_RESNET_IDX to a folder of its four IDX files, or have it in fastai's cache.",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these notebooks, by path, file name or stem")
    parser.add_argument("--times", type=Path, metavar="FILE", help="note the seconds in this JSON file (tools/times.json feeds README.md)")
    parser.add_argument("--slow", action="store_true", help="run the cells with `#| slow` too, which otherwise keep their saved outputs")
    parser.add_argument("--allow-standin", action="store_true", help="run on the stand-in too, without saving")
    args = parser.parse_args(argv)
    real = digits_in_force() == "mnist"
    if not real and not args.allow_standin:
        print(
            "Saved outputs are those of real MNIST, and it is not here: set PIXELS_TO_RESNET_IDX to a folder of its four IDX files, "
            "or run with --allow-standin, which saves nothing."
        )
        return 2
    try:
        paths = chosen(args.only)
    except ValueError as error:
        parser.error(str(error))
    try:
        for name in ("mnist_sample", "mnist_png"):
            digits_path(name, say=print)
    except DataError as error:
        print(error)
        return 1
    seconds = {}
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        try:
            seconds[name] = run_and_save(path, keep=real, slow=args.slow)
        except NotebookFailed as failed:
            print(f"{name} is not saved: {failed}")
            return 1
        print(f"{name}: {seconds[name]:.1f} s{'' if real else ', not saved'}", flush=True)
    if args.times:
        note_times(args.times, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
