"""Saved outputs hold nothing of the machine and the moment they were made on."""
from __future__ import annotations

import ast
import json
import platform
import re
from pathlib import Path

from tools.course import Cell, Notebook, joined, notebook_paths, notebooks
from tools.guards.traces import MACHINE_PATH

RULES = {
    "a warning": re.compile(r"\b\w*Warning\b\s*:|\bwarnings?\.warn\("),
    "a traceback": re.compile(r"Traceback \(most recent call last\)"),
    "an absolute path": re.compile(
        rf"{MACHINE_PATH.pattern}|(?<![\w.:/<])/{{1,3}}(?:usr|etc|var|opt|mnt|srv|dev|proc|content|kaggle|media|Volumes)/[\w.-]|PosixPath\('/|\b[A-Za-z]:\\\\?[\w.]|file://"
    ),
    "a memory address": re.compile(r"\bat 0x[0-9a-fA-F]{4,}|\b0x[1-9a-fA-F][0-9a-fA-F]{7,}"),
    "control characters": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)"),
}
REMEDY = {
    "a warning": "repair its cause",
    "a traceback": "catch the error and show its message",
    "an absolute path": "show a path relative to the data folder",
    "a memory address": "show a value that has a readable form",
    "control characters": "print without colours and without a moving progress bar",
}
SHOWN = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Compare, ast.Tuple, ast.List, ast.Dict, ast.Constant, ast.ListComp, ast.BoolOp)


def check_output(output: dict[str, object]) -> list[str]:
    """What is wrong with one output, each with its remedy."""
    if output["output_type"] == "error":
        return ["the output is an error; catch it and show its message"]
    if output["output_type"] == "stream" and output.get("name") == "stderr":
        return ["something was written to standard error; run `python -m tools.notebooks`, which silences progress bars, or repair its cause"]
    data = output.get("data", {})
    assert isinstance(data, dict)
    if any("widget" in kind for kind in data):
        return ["the output is a widget, which a reader of the saved page cannot use; show plain text"]
    texts = [joined(output.get("text"))] + [joined(data[kind]) for kind in data if kind.startswith("text/") or kind == "image/svg+xml"]
    name = platform.node().partition(".")[0]
    if len(name) >= 6 and name != "localhost" and any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts):
        return ["the output holds the name of this machine; leave it out"]
    return [f"the output holds {what}; {REMEDY[what]}" for what, pattern in RULES.items() if any(pattern.search(text) for text in texts)]


def not_run(cell: Cell) -> bool:
    """Whether a cell that ends in a value has no output: it was changed, and not run again."""
    if cell.outputs or cell.option("eval", True) is False or cell.body.rstrip().endswith(";"):
        return False
    try:
        tree = ast.parse(cell.body)
    except SyntaxError:
        return False
    return bool(tree.body) and isinstance(tree.body[-1], ast.Expr) and isinstance(tree.body[-1].value, SHOWN) and not _docstring(tree)


def _docstring(tree: ast.Module) -> bool:
    return len(tree.body) == 1 and ast.get_docstring(tree) is not None


def check_notebook_outputs(notebook: Notebook) -> list[str]:
    """Complaints about one notebook."""
    found = (f"{cell.where}: {what}." for cell in notebook.code for output in cell.outputs for what in check_output(output))
    complaints = list(dict.fromkeys(found))
    remedy = f"run `python -m tools.notebooks --only {notebook.name}`"
    return complaints + [f"{cell.where}: it ends in a value and has no output; {remedy}." for cell in notebook.code if not_run(cell)]


def check_outputs(root: Path) -> list[str]:
    """Every saved notebook; the widgets of a notebook's metadata too."""
    complaints = [complaint for notebook in notebooks(root) for complaint in check_notebook_outputs(notebook)]
    return complaints + _widget_state(root)


def _widget_state(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root).as_posix()}: its metadata holds the state of widgets; clear it and save again."
        for path in notebook_paths(root)
        if "widgets" in json.loads(path.read_text(encoding="utf-8")).get("metadata", {})
    ]
