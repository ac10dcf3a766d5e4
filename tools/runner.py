"""`python -m tools.runner`: what a machine needs to run `climb` from a wheel, one requirement a line, for `pip install -r`.

settings.ini names these packages under `runner_requirements`; their versions are those of `requirements`. Needs nothing but Python.
"""
from __future__ import annotations

import re
import sys
from configparser import ConfigParser
from pathlib import Path


def runner_requirements(root: Path) -> list[str]:
    """The lines of `requirements` for the packages that `runner_requirements` names. Raises ValueError for one that is not there."""
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    lines = {re.match(r"[\w.-]+", line)[0]: line for line in config["DEFAULT"]["requirements"].split()}  # type: ignore[index]
    wanted = config["DEFAULT"]["runner_requirements"].split()
    missing = [name for name in wanted if name not in lines]
    if missing:
        raise ValueError(f"settings.ini: runner_requirements names {missing[0]}, and requirements does not; add it there, with its versions.")
    return [lines[name] for name in wanted]


if __name__ == "__main__":
    try:
        print("\n".join(runner_requirements(Path(__file__).resolve().parent.parent)))
    except ValueError as error:
        sys.exit(str(error))
