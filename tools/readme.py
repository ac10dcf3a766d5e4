"""`python -m tools.readme`: write the table of notebooks into README.md; `--check` only compares."""
from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from tools.course import ROOT, Notebook, notebooks, settings

BEGIN, END = "<!-- course:begin -->", "<!-- course:end -->"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


class NoMarkers(Exception):
    """README.md has no place for the table."""


def duration(seconds: float | None) -> str:
    """`40 s`, `2 min`, or a dash for a notebook that was never timed; rounded up, as a promise to the reader."""
    if seconds is None:
        return "-"
    return f"{max(5, -(-round(seconds) // 5) * 5)} s" if seconds <= 90 else f"{-(-round(seconds) // 60)} min"


def badge(notebook: Notebook, cfg: dict[str, str]) -> str:
    """The Colab badge of a notebook, as Markdown."""
    goal = f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/{notebook.name}"
    return f"[![Open {Path(notebook.name).stem} in Colab]({BADGE})]({goal})"


def _row(notebook: Notebook, times: dict[str, float]) -> str:
    name, summary = (text.replace("|", r"\|") for text in (notebook.title, notebook.summary))
    path = Path(notebook.name)
    number, folder = path.stem.split("_")[0], path.parent.name
    label = number if notebook.is_chapter or folder == "engine" else f"{folder} {number}"
    return f"| {label} | [{name}]({notebook.name}) | {summary} | {duration(times.get(notebook.name))} |"


def table(root: Path = ROOT) -> str:
    """The chapters with their badges, then the engine room, with the seconds each took when it was last timed."""
    saved = root / "tools" / "times.json"
    times = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    every = notebooks(root)
    chapters = [n for n in every if n.is_chapter]
    engine = [n for n in every if n.module and not n.is_chapter]
    parts = ["| | Chapter | What you leave with | Runs in | |", "|---|---|---|---|---|"]
    parts += [f"{_row(n, times)} {badge(n, settings(root))} |" for n in chapters]
    if engine:
        about = "The engine room, for those who want to see how the library reads, trains and draws; `linear 01` belongs to chapter 04, linear:"
        parts += ["", about, ""]
        parts += ["| | Notebook | What it does | Runs in |", "|---|---|---|---|", *(_row(n, times) for n in engine)]
    return "\n".join(parts)


def rewritten(text: str, root: Path = ROOT) -> str:
    """`text` with a fresh table between the two markers. Raises NoMarkers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise NoMarkers(f"README.md needs one line `{BEGIN}` and below it one line `{END}`; add them where the table of notebooks goes.")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table(root)}\n{END}", text, flags=re.S)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.readme", description="Write the table of notebooks into README.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is out of step")
    args = parser.parse_args(argv)
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    try:
        new = rewritten(old)
    except NoMarkers as error:
        print(error)
        return 1
    if args.check:
        print("README.md is in step." if old == new else "README.md is out of step; run `python -m tools.readme`.")
        return int(old != new)
    if old != new:
        readme.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
