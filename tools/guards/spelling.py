"""Spelling, by codespell."""
from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.course import load, text_files

IGNORE = "tools/spelling.txt"


def readable(root: Path) -> dict[str, str]:
    """What is checked: .md and .py files, and the sources of a notebook's cells, which hold no pictures. Name -> text."""
    found = {name: text for name, text in text_files(root) if name.endswith((".md", ".py", ".cff", ".ini"))}
    for name, _ in text_files(root):
        if name.endswith(".ipynb"):
            for cell in load(root / name, root).cells:
                found[cell.where] = re.sub(r"data:image/[^)\"']*", "", cell.source)
    return found


def check_spelling(root: Path) -> list[str]:
    """Every word codespell knows to be wrong and tools/spelling.txt does not allow."""
    texts = list(readable(root).items())
    with tempfile.TemporaryDirectory(prefix="spelling") as temporary:
        for i, (_, text) in enumerate(texts):
            Path(temporary, f"{i}.txt").write_text(text, encoding="utf-8")
        ignore = ["--ignore-words", str(root / IGNORE)] if (root / IGNORE).exists() else []
        done = subprocess.run(
            [sys.executable, "-m", "codespell_lib", "--disable-colors", *ignore, "."],
            cwd=temporary, capture_output=True, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    found = re.findall(r"^\S*?(\d+)\.txt:(\d+): (.+)$", done.stdout, re.M)
    if done.returncode and not found:
        return [f"codespell could not run: {(done.stderr or done.stdout).strip()[-200:]}; repair the environment."]
    return [
        f"{texts[int(i)][0]}, line {line}: spelling, {words}; correct it, or add the word to {IGNORE} if it is right."
        for i, line, words in found
    ]
