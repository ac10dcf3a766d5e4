"""Small repositories for tests: a settings.ini and notebooks of a few cells, in a temporary folder."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SETTINGS = """[DEFAULT]
repo = small_course
lib_name = small
version = 0.0.1
min_python = 3.10
license = apache2
lib_path = small
nbs_path = nbs
doc_path = _docs
recursive = True
tst_flags = slow
put_version_in_init = True
branch = main
custom_sidebar = True
doc_host = https://%(user)s.github.io
doc_baseurl = /%(repo)s
git_url = https://github.com/%(user)s/%(repo)s
title = Small
readme_nb = none.ipynb
update_pyproject = False
allowed_metadata_keys =
allowed_cell_metadata_keys =
jupyter_hooks = False
clean_ids = False
clear_all = False
audience = Developers
author = Nobody
author_email = nobody@example.org
copyright = 2026
description = A small course
keywords = small
language = English
status = 3
user = small-owner
requirements =
"""


def md(text: str) -> dict[str, Any]:
    """A markdown cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def printed(text: str, name: str = "stdout") -> dict[str, Any]:
    """An output: text on a stream."""
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data: str) -> dict[str, Any]:
    """An output: a value; `text_plain="1"` stands for {"text/plain": "1"}."""
    kinds = {key.replace("__", "+").replace("_", "/", 1): value for key, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": kinds}


def code(source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    """A code cell with its outputs."""
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": list(outputs), "source": source}


def write_notebook(root: Path, name: str, *cells: dict[str, Any]) -> Path:
    """Write nbs/NAME the way nbdev_clean leaves it."""
    path = root / "nbs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = {"display_name": "python3", "language": "python", "name": "python3"}
    lines = [{**c, "id": f"cell{i}", "source": c["source"].splitlines(keepends=True)} for i, c in enumerate(cells)]
    content = {"cells": lines, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return path


def title(name: str = "One", module: str = "") -> list[dict[str, Any]]:
    """The cells a notebook begins with."""
    return [md(f"# {name}\n\n> What {name} is about."), *([code(f"#| default_exp {module}")] if module else [])]


def write_repository(root: Path) -> Path:
    """A repository with settings.ini and no notebook; returns its folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    (root / "nbs").mkdir(exist_ok=True)
    return root
