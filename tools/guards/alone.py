"""Every notebook runs in a fresh kernel that has only the modules of earlier notebooks, and prints what it has saved."""
from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from tools.course import Cell, Notebook, digits_in_force, earlier_modules, from_json, joined, load, notebook_paths, settings
from tools.execute import NotebookFailed, execute
from tools.guards.numbers import check_notebook_numbers
from tools.guards.outputs import REMEDY, RULES

# An editable install finds every module of the checkout even when an earlier folder on the path holds a part of the package:
# this file, which Python imports at the start of every process, refuses what that folder does not hold.
REFUSE = '''
import importlib.abc, sys

class OnlyEarlierModules(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        package, _, module = name.partition(".")
        if package == {lib!r} and module and module not in {allowed!r}:
            known = ", ".join({allowed!r}) or "none"
            raise ModuleNotFoundError(f"{{name}} is not exported by an earlier notebook; the earlier modules are: {{known}}", name=name)

sys.meta_path.insert(0, OnlyEarlierModules())
'''


def restrict(root: Path, folder: Path, modules: list[str]) -> None:
    """Make `folder` one that, first on PYTHONPATH, leaves a Python process only `modules` of the library."""
    lib = settings(root)["lib_path"]
    (folder / lib).mkdir()
    for name in ["__init__", *modules]:
        source = root / lib / f"{name}.py"
        if source.exists():
            shutil.copyfile(source, folder / lib / source.name)
    (folder / "sitecustomize.py").write_text(REFUSE.format(lib=lib, allowed=modules), encoding="utf-8")


def texts(cell: Cell) -> list[str]:
    """What a cell printed and showed as text: standard output joined to one entry, then plain text and HTML of every value."""
    printed = "".join(joined(o.get("text")) for o in cell.outputs if o["output_type"] == "stream" and o.get("name") == "stdout")
    shown = [joined(o["data"].get(kind)) for o in cell.outputs if "data" in o for kind in ("text/plain", "text/html")]
    return [re.sub(r"(<[^<>]*?) at 0x[0-9a-fA-F]+(?=>)", r"\1", text.replace("\r\n", "\n").rstrip()) for text in (printed, *shown)]


def new_warnings(fresh: Notebook) -> list[str]:
    """Complaints about warnings and tracebacks of a fresh run; progress bars are let off."""
    return [
        f"{cell.where}: {what} on standard error ({found[0]!r}); {REMEDY[what]}."
        for cell in fresh.code
        for what in ("a warning", "a traceback")
        if (found := RULES[what].search("".join(joined(o.get("text")) for o in cell.outputs if o.get("name") == "stderr")))
    ]


def differing_cells(saved: Notebook, fresh: Notebook) -> list[str]:
    """Complaints about cells whose saved text is not what they print now; cells with `#| varies: true` are let off."""
    return [
        f"{old.where}: the saved output is not what the cell prints now ({_first_difference(texts(old), texts(new))}); run "
        f"`python -m tools.notebooks --only {saved.name}`, or mark a cell whose text differs from run to run with `#| varies: true`."
        for old, new in zip(saved.cells, fresh.cells)
        if old.kind == "code" and not old.option("varies") and texts(old) != texts(new)
    ]


def with_saved_variants(saved: Notebook, fresh: Notebook) -> Notebook:
    """The fresh run with the saved outputs of cells with `#| varies: true`, which the prose is about; their assertions guard the fresh ones."""
    pairs = zip(saved.cells, fresh.cells)
    return replace(fresh, cells=[replace(new, outputs=old.outputs) if old.kind == "code" and old.option("varies") else new for old, new in pairs])


def _first_difference(saved: list[str], fresh: list[str]) -> str:
    if len(saved) != len(fresh):
        return f"{len(saved) - 1} values saved, {len(fresh) - 1} now"
    old, new = next((a.splitlines(), b.splitlines()) for a, b in zip(saved, fresh) if a != b)
    pair = next(((a, b) for a, b in zip(old, new) if a != b), (f"{len(old)} lines", f"{len(new)} lines"))
    return "saved {!r}, now {!r}".format(*(text[:80] for text in pair))


def check_notebook_alone(path: Path, root: Path, digits: str | None = None, timeout: int = 300) -> list[str]:
    """Run one notebook, once; on real MNIST compare its text with the saved one and its prose with the fresh numbers."""
    saved = load(path, root)
    with tempfile.TemporaryDirectory(prefix="alone") as temporary:
        restrict(root, Path(temporary), earlier_modules(path, root))
        try:
            run = execute(path, first_on_path=Path(temporary), timeout=timeout)
        except NotebookFailed as failed:
            return [f"{saved.name}: {failed}"]
    fresh = from_json(saved.name, run)
    if (digits or digits_in_force()) != "mnist":
        return new_warnings(fresh)
    return new_warnings(fresh) + differing_cells(saved, fresh) + check_notebook_numbers(with_saved_variants(saved, fresh))


def check_alone(root: Path) -> list[str]:
    """Every notebook of the course, one after the other."""
    return [complaint for path in notebook_paths(root) for complaint in check_notebook_alone(path, root)]
