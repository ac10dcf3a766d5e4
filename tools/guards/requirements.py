"""Every module that is imported comes with Python, with the project, or with a package that settings.ini names.

What some other package happens to bring along today can be gone tomorrow. The library may need only `requirements`, which its users
install; notebooks, tests and tools may need `dev_requirements` too. `python -m NAME` in a list of words counts as an import of NAME.
"""
from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

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
    """The library, the notebooks and every other Python file."""
    own = own_modules(root)
    runtime, every = required(root, "requirements"), required(root, "requirements", "dev_requirements")
    return [
        complaint
        for where, source, used in sources(root)
        for complaint in check_source(where, source, runtime if used else every, own, "requirements" if used else "dev_requirements")
    ]
