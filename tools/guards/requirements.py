"""Every module that is imported comes with Python, with the project, or with a package that settings.ini names.

What some other package happens to bring along today can be gone tomorrow. The library may need only `requirements`, which its users
install; notebooks, tests and tools may need `dev_requirements` too. `python -m NAME` in a list of words counts as an import of NAME.

A machine that only runs the commands of setup.py installs less: `runner_requirements`, exactly the packages that the modules behind these
commands cannot do without. An import in a `try` that catches its failure is no need.
"""
from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from tools.course import files, notebooks, settings
from tools.guards.anatomy import python

packages = lru_cache(packages_distributions)


def normal(name: str) -> str:
    """The name of a package as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(root: Path, *keys: str) -> set[str]:
    """The packages that settings.ini names under `keys`."""
    return {normal(re.match(r"[\w.-]+", word)[0]) for key in keys for word in settings(root).get(key, "").split()}  # type: ignore[index]


def imported(source: str) -> set[str]:
    """The top-level modules that a piece of Python imports, anywhere in it, or starts with `-m`. Raises SyntaxError."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.List | ast.Tuple):
            words = [n.value if isinstance(n, ast.Constant) else None for n in node.elts]
            found.update(b for a, b in zip(words, words[1:]) if a == "-m" and isinstance(b, str) and b[:1].isalpha())
    return {name.split(".")[0] for name in found}


def _is_for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, which never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _may_fail(node: ast.AST) -> bool:
    """A `try` that goes on when what it imports is not there."""
    caught = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    handlers = node.handlers if isinstance(node, ast.Try) else []
    return any(h.type is None or caught & {n.id for n in ast.walk(h.type) if isinstance(n, ast.Name)} for h in handlers)


class _Needed(ast.NodeTransformer):
    """Takes out of a module what it can do without."""

    def visit_If(self, node: ast.If) -> Any:
        return [self.visit(n) for n in node.orelse] if _is_for_types(node) else self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> Any:
        if not _may_fail(node):
            return self.generic_visit(node)
        kept = ast.Try(body=[ast.Pass()], handlers=node.handlers, orelse=node.orelse, finalbody=node.finalbody)
        return self.generic_visit(kept)


def needed(source: str, lib: str, modules: set[str]) -> tuple[set[str], set[str]]:
    """What a module of the library `lib` cannot do without: other packages' top-level modules, and which of the library's `modules`.

    A text that is a module's name, or `module:function`, counts: so does the library name what it imports late. Raises SyntaxError."""
    tree = _Needed().visit(ast.parse(source))
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == lib):
            path = (node.module or "").removeprefix(lib).strip(".")
            own |= {path.split(".")[0]} if path else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            own |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{lib}.")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+(:\w+)?", node.value):
            own.add(node.value.split(":")[0])
    return imported(ast.unparse(tree)) - {lib, "__future__"} - sys.stdlib_module_names, own & modules


def reached(root: Path) -> dict[str, set[str]]:
    """The modules that the commands of setup.py reach, each with the modules of other packages that it needs. Raises SyntaxError."""
    lib, folder = settings(root)["lib_name"], root / settings(root)["lib_path"]
    setup = root / "setup.py"
    listed = re.search(r"console_scripts\W*\[(.*?)\]", setup.read_text(encoding="utf-8"), re.S) if setup.exists() else None
    waiting = re.findall(r"\.(\w+):\w+[\"']", listed[1]) if listed else []
    modules, found = {p.stem for p in folder.glob("*.py")}, {}
    while waiting:
        name = waiting.pop()
        if name in modules and name not in found:
            found[name], more = needed((folder / f"{name}.py").read_text(encoding="utf-8"), lib, modules)
            waiting += more
    return found


def check_runner(root: Path) -> list[str]:
    """`runner_requirements` are names of packages of `requirements`, and exactly those that the commands need."""
    words = settings(root).get("runner_requirements", "").split()
    if not words:
        return []
    known, lib = required(root, "requirements"), settings(root)["lib_path"]
    wrong = [word for word in words if normal(word) not in known]
    remedy = "write only names that stand there"
    complaints = [f"settings.ini: runner_requirements names {word}, which is no package of requirements; {remedy}." for word in wrong]
    try:
        modules = reached(root)
    except SyntaxError:
        return complaints  # `check_source` says where
    allowed = {normal(word) for word in words if word not in wrong}
    unused, remedy = set(allowed), "to runner_requirements of settings.ini, or catch the ImportError"
    for module, names in sorted(modules.items()):
        for name in sorted(names):
            brought_by = {normal(package) for package in packages().get(name, [])}
            unused -= brought_by
            if brought_by and not brought_by & allowed:
                wanted = " or ".join(sorted(brought_by))
                complaints.append(f"{lib}/{module}.py: a command of setup.py needs {name} here; add {wanted} {remedy}.")
    idle = (f"settings.ini: runner_requirements names {name}, which no command of setup.py needs; take it out." for name in sorted(unused))
    return complaints + list(idle)


def own_modules(root: Path) -> set[str]:
    """The names under which files of the repository import each other."""
    names = [p.relative_to(root) for p in files(root) if p.suffix == ".py"]
    folders, beside = {n.parts[0] for n in names if len(n.parts) > 1}, {n.stem for n in names if n.parts[0] in ("tests", "bench")}
    return {settings(root)["lib_name"]} | folders | beside


def sources(root: Path) -> Iterator[tuple[str, str, bool]]:
    """Every piece of Python: where it stands, its text, and whether users of the library run it."""
    lib = settings(root)["lib_path"]
    for path in files(root):
        if path.suffix == ".py":
            name = path.relative_to(root)
            yield name.as_posix(), path.read_text(encoding="utf-8"), name.parts[0] == lib
    for notebook in notebooks(root):
        for cell in notebook.code:
            yield cell.where, python(cell), False


def check_source(where: str, source: str, allowed: set[str], own: set[str], key: str) -> list[str]:
    """Complaints about one piece of Python, which may import what the packages `allowed` bring; `key` is where to add one."""
    try:
        names = imported(source)
    except SyntaxError as error:
        return [f"{where}: its imports cannot be read ({error.msg}, line {error.lineno}); correct it."]
    complaints = []
    for name in sorted(names - own - sys.stdlib_module_names - {"__future__"}):
        brought_by = {normal(package) for package in packages().get(name, [])}
        if not brought_by:
            complaints.append(f"{where}: {name} is imported, and no installed package brings it; name its package in {key} of settings.ini.")
        elif not brought_by & allowed:
            wanted = " or ".join(sorted(brought_by))
            complaints.append(f"{where}: {name} is imported, and settings.ini does not ask for it; add {wanted} to {key}.")
    return complaints


def check_requirements(root: Path) -> list[str]:
    """The library, the notebooks and every other Python file; and what the commands need."""
    own = own_modules(root)
    runtime, every = required(root, "requirements"), required(root, "requirements", "dev_requirements")
    return [
        complaint
        for where, source, used in sources(root)
        for complaint in check_source(where, source, runtime if used else every, own, "requirements" if used else "dev_requirements")
    ] + check_runner(root)
