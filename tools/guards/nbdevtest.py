"""`nbdev_test` passes."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tools.course import script
from tools.execute import CALM


def check_nbdev_test(root: Path, timeout: int = 840, workers: int = 1) -> list[str]:
    """`nbdev_test` ends with the line `Success.`; a run that finds no notebook exits with 0 and without it."""
    command = [script("nbdev_test"), "--n_workers", str(workers), "--do_print"]
    try:
        done = subprocess.run(
            command, cwd=root, env={**os.environ, **CALM}, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return [f"nbdev_test did not end within {timeout} seconds; run `nbdev_test --timing` to find the slow notebook."]
    if done.returncode == 0 and "Success." in done.stdout.splitlines():
        return []
    return ["nbdev_test did not end with the line `Success.`; run it and repair the cell it shows:\n" + (done.stdout + done.stderr)[-3000:]]
