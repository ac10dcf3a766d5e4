"""A chapter is built the way a reader expects: short cells, prose between them, assertions, predictions, a quiz, exercises."""
from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

from tools.course import Cell, Notebook, notebooks, settings
from tools.guards.links import GITHUB

SHORT, LONGEST, SHARE_SHORT, SHARE_PROSE, ASSERTIONS, BOXES = 10, 20, 0.9, 0.4, 8, 3
SECTIONS = ("What to remember", "Quiz", "Exercises", "Further reading")
ASSERTING = frozenset(
    "test test_eq test_ne test_eq_type test_close test_is test_is_not test_fail test_warns test_stdout test_shuffled test_fig_exists "
    "test_sig check".split()
)
SHELL = re.compile(r"^\s*[%!].*$|^\s*\w+\s*=\s*!.*$", re.M)


def python(cell: Cell) -> str:
    """The cell's Python, with shell and magic lines made harmless."""
    return re.sub(r"(?m)^\?+.*$|^.*\?+$", "pass", SHELL.sub(lambda m: m[0][: len(m[0]) - len(m[0].lstrip())] + "pass", cell.body))


def lines(cell: Cell) -> int:
    """Lines of code: directives and blank lines do not count."""
    return sum(bool(line.strip()) for line in cell.body.splitlines())


def has_comment(cell: Cell) -> bool:
    """Whether there is a comment that is not a directive."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(python(cell)).readline))
    except (tokenize.TokenError, SyntaxError):
        return bool(re.search(r"^\s*#(?!\|)", cell.body, re.M))
    return any(t.type == tokenize.COMMENT for t in tokens)


def assertions(cell: Cell) -> int:
    """How many `assert` statements and calls of `ASSERTING` a cell holds."""
    try:
        nodes = list(ast.walk(ast.parse(python(cell))))
    except SyntaxError:
        return 0
    called = (n.func for n in nodes if isinstance(n, ast.Call))
    names = [f.id if isinstance(f, ast.Name) else f.attr for f in called if isinstance(f, ast.Name | ast.Attribute)]
    return sum(isinstance(n, ast.Assert) for n in nodes) + sum(name in ASSERTING for name in names)


def section(notebook: Notebook, title: str) -> list[Cell]:
    """The cells from the heading `title` to the next heading of its level or above; empty if there is no such heading."""
    found: list[Cell] = []
    level = 0
    for cell in notebook.cells:
        headings = re.findall(r"^(#{1,6}) +(.+?)\s*$", re.sub(r"(?ms)^```.*?^```", "", cell.source), re.M) if cell.kind == "markdown" else []
        for marks, text in headings:
            if re.sub(r"\s*\{.*\}$", "", text) == title:
                level = len(marks)
                found.append(cell)
            elif level and len(marks) <= level:
                return found
        if level and cell not in found[-1:]:
            found.append(cell)
    return found


def check_cells(notebook: Notebook) -> list[str]:
    """The rules for every notebook: length of cells and comments. In the engine room exported cells may be long."""
    complaints = [
        f"{c.where}: {lines(c)} lines of code, more than {LONGEST}; split the cell or the function." for c in notebook.code if lines(c) > LONGEST
    ]
    counted = [c for c in notebook.code if notebook.is_chapter or not c.exported]
    long = [c for c in counted if lines(c) >= SHORT]
    if len(counted) - len(long) < SHARE_SHORT * len(counted):
        complaints.append(
            f"{notebook.name}: {len(long)} of {len(counted)} code cells have {SHORT} lines or more, and at most {1 - SHARE_SHORT:.0%} may; "
            f"split {', '.join(c.id for c in long)}."
        )
    complaints += [f"{c.where}: a comment in a code cell; split the cell there and say it in prose." for c in notebook.code if has_comment(c)]
    return complaints


def check_first_cell(notebook: Notebook) -> list[str]:
    """The first cell holds the H1, one `>` line and nothing else."""
    first = notebook.cells[0].source.strip() if notebook.cells and notebook.cells[0].kind == "markdown" else ""
    if re.fullmatch(r"# [^\n]+\n+> [^\n]+", first):
        return []
    return [f"{notebook.name}: its first cell is not an H1 and one `> ` line; write these two lines and move the rest down."]


def check_chapter(notebook: Notebook) -> list[str]:
    """The rules for chapters only."""
    prose = "\n\n".join(c.source for c in notebook.prose)
    complaints = []
    count = sum(assertions(c) for c in notebook.code)
    if count < ASSERTIONS:
        complaints.append(f"{notebook.name}: {count} assertions, fewer than {ASSERTIONS}; put one under each claim.")
    share = len(notebook.prose) / max(1, len(notebook.prose) + len(notebook.code))
    if share < SHARE_PROSE:
        complaints.append(f"{notebook.name}: {share:.0%} of its cells are prose, less than {SHARE_PROSE:.0%}; say before a cell what it shows.")
    boxes = len(re.findall(r"Stop and predict", prose))
    if boxes < BOXES:
        complaints.append(f"{notebook.name}: {boxes} boxes `Stop and predict`, fewer than {BOXES}; add one a section.")
    for title in SECTIONS:
        if not section(notebook, title):
            complaints.append(f"{notebook.name}: no section `{title}`; add a heading with exactly these words.")
    quiz = section(notebook, "Quiz")
    if quiz and not any("<details" in c.source for c in quiz):
        complaints.append(f"{notebook.name}: the quiz has no folded answers; put them into <details>.")
    exercises = section(notebook, "Exercises")
    if exercises and not any(c.kind == "code" and c.option("code-fold") is True for c in exercises):
        complaints.append(f"{notebook.name}: the exercises have no folded solution; add a code cell with `#| code-fold: true`.")
    set_up = any(re.search(r"^\s*[!%]pip install|google\.colab", c.source, re.M) for c in notebook.code)
    if not set_up and "colab.research.google.com/github/" not in prose:
        complaints.append(f"{notebook.name}: no way into Colab; add its badge, or a cell that installs the package there.")
    return complaints


def check_notebook_anatomy(notebook: Notebook) -> list[str]:
    """Complaints about one notebook."""
    if notebook.is_chapter:
        return check_first_cell(notebook) + check_cells(notebook) + check_chapter(notebook)
    return check_first_cell(notebook) + check_cells(notebook) if notebook.module else check_cells(notebook)


def imports(cell: Cell, module: str) -> bool:
    """Whether a cell imports `module` or a part of it."""
    return re.search(rf"^[ \t]*(?:from|import)[ \t]+{re.escape(module)}\b", cell.body, re.M) is not None


def installs(cell: Cell, lib: str, git_url: str) -> bool:
    """Whether a cell installs the library from its repository where it is missing, unseen on the site."""
    asks = re.search(rf"^if\s+importlib\.util\.find_spec\(([\"']){re.escape(lib)}\1\)\s+is\s+None\s*:", cell.body, re.M)
    does = re.search(rf"^[ \t]+%pip install -q git\+{re.escape(git_url)}[ \t]*$", cell.body, re.M)
    return bool("hide" in cell.flags and asks and does and asks.start() < does.start())


def check_colab(notebook: Notebook, lib: str, git_url: str) -> list[str]:
    """Complaints about a notebook that people open in Colab: it must install the library before it first imports it."""
    first = next((i for i, cell in enumerate(notebook.code) if imports(cell, lib)), None)
    if first is None or any(installs(cell, lib, git_url) for cell in notebook.code[:first]):
        return []
    return [
        f"{notebook.name}: README.md opens it in Colab, where {lib} is missing; put a cell before its first import, with `#| hide`, "
        f'`import importlib.util`, `if importlib.util.find_spec("{lib}") is None:` and, indented, `%pip install -q git+{git_url}`.'
    ]


def in_colab(root: Path) -> set[str]:
    """The names of the notebooks that README.md opens in Colab."""
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    found = (m[3].strip("/").split("/") for m in GITHUB.finditer(text) if m[0].startswith("colab."))
    return {"/".join(rest[2:]) for rest in found if rest[0] == "blob"}


def check_anatomy(root: Path) -> list[str]:
    """Every notebook; those that README.md opens in Colab must run there."""
    cfg, opened = settings(root), in_colab(root)
    return [
        complaint
        for notebook in notebooks(root)
        for complaint in check_notebook_anatomy(notebook)
        + (check_colab(notebook, cfg["lib_name"], cfg["git_url"]) if notebook.name in opened else [])
    ]
