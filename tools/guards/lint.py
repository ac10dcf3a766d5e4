"""Python is written as ruff.toml says."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def check_lint(root: Path) -> list[str]:
    """What `ruff check` finds."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."],
        cwd=root, capture_output=True, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    found = re.findall(r"^(\S+?\.py:\d+:\d+: .+)$", done.stdout, re.M)
    if done.returncode and not found:
        return [f"ruff could not run: {(done.stderr or done.stdout).strip()[-200:]}; repair the environment."]
    return [f"{line}; run `ruff check` for the details." for line in found]
