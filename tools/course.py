"""What the other tools need to know about the course: its settings, its notebooks and their order, its files."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

ROOT = Path(__file__).resolve().parent.parent
OUTPUT_FOLDERS = {".git", ".venv", "__pycache__", "build", "dist", "_proc", "_docs", "climb_out", ".ipynb_checkpoints"}

FLAG = re.compile(r" ?[\w-]+(\s+[^:]*)?$")


def settings(root: Path = ROOT) -> dict[str, str]:
    """The values of settings.ini, `%(name)s` filled in."""
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def script(name: str) -> str:
    """The path of a command of this Python's environment, or `name` itself where it is not installed."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name) or name


def files(root: Path = ROOT) -> list[Path]:
    """The files of the repository: tracked, and new ones that git does not ignore; without git, all but build outputs."""
    if (root / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, capture_output=True, check=True)
        found = (root / name for name in listed.stdout.decode("utf-8").split("\0") if name)
    else:
        found = (p for p in root.rglob("*") if not OUTPUT_FOLDERS.intersection(p.relative_to(root).parts))
    return sorted({p for p in found if p.is_file()})


def text_files(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Name and text of every file of the repository that holds UTF-8 text; not of pictures, other binary files and links."""
    for path in files(root):
        if path.is_symlink():
            continue
        data = path.read_bytes()
        if b"\0" not in data[:4096]:
            try:
                yield path.relative_to(root).as_posix(), data.decode("utf-8")
            except UnicodeDecodeError:
                continue


@dataclass(frozen=True)
class Cell:
    """One cell, its text joined to one string; `where` is how complaints name it."""

    notebook: str
    id: str
    kind: str
    source: str
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.notebook}, cell {self.id}"

    @cached_property
    def _split(self) -> tuple[list[str], list[str]]:
        lines = self.source.splitlines()
        n = 0
        while n < len(lines) and (lines[n].startswith("#|") or (not lines[n].strip() and n)):
            n += 1
        return [line[2:] for line in lines[:n] if line.startswith("#|")], lines[n:]

    @property
    def body(self) -> str:
        """The source without its directives."""
        return "\n".join(self._split[1])

    @cached_property
    def flags(self) -> dict[str, str]:
        """nbdev's directives: `#| export`, `#| default_exp idx` as {'export': '', 'default_exp': 'idx'}."""
        plain = (line.strip().partition(" ") for line in self._split[0] if FLAG.match(line))
        return {name: rest.strip() for name, _, rest in plain}

    @cached_property
    def options(self) -> dict[str, Any]:
        """Quarto's options, `#| key: value`. Raises yaml.YAMLError where Quarto would."""
        lines = (line.removeprefix(" ") for line in self._split[0] if not FLAG.match(line))
        loaded = yaml.safe_load("\n".join(lines))
        return loaded if isinstance(loaded, dict) else {}

    def option(self, name: str, default: Any = None) -> Any:
        """One of `options`; `default` too where they cannot be read, which the guard `figures` reports."""
        try:
            return self.options.get(name, default)
        except yaml.YAMLError:
            return default

    @property
    def exported(self) -> bool:
        return bool({"export", "exports", "exporti"} & self.flags.keys())


@dataclass(frozen=True)
class Notebook:
    """One notebook: its name relative to the repository (`nbs/00_data.ipynb`) and its cells."""

    name: str
    cells: list[Cell]

    @property
    def code(self) -> list[Cell]:
        return [c for c in self.cells if c.kind == "code" and c.source.strip()]

    @property
    def prose(self) -> list[Cell]:
        return [c for c in self.cells if c.kind == "markdown"]

    @property
    def is_chapter(self) -> bool:
        return re.match(r"nbs/\d\d_[^/]*\.ipynb$", self.name) is not None

    @property
    def title(self) -> str:
        """The text of the first H1, or an empty string."""
        found = re.search(r"^# +(.+?)\s*$", self.prose[0].source if self.prose else "", re.M)
        return found[1] if found else ""

    @property
    def summary(self) -> str:
        """The `>` line under the H1, or an empty string."""
        found = re.search(r"^> *(.+?)\s*$", self.prose[0].source if self.prose else "", re.M)
        return found[1] if found else ""

    @property
    def module(self) -> str:
        """The module this notebook exports (`#| default_exp`), or an empty string."""
        return next((c.flags["default_exp"] for c in self.cells if "default_exp" in c.flags), "")


def joined(text: str | list[str] | None) -> str:
    """A notebook keeps text as one string or as a list of lines; this is the string."""
    return "".join(text) if isinstance(text, list) else (text or "")


def from_json(name: str, content: dict[str, Any]) -> Notebook:
    """A Notebook from the parsed JSON of an .ipynb file (or from nbformat's NotebookNode, which is the same)."""
    cells = [
        Cell(name, c.get("id", f"number {i}"), c["cell_type"], joined(c["source"]), list(c.get("outputs", [])))
        for i, c in enumerate(content["cells"])
    ]
    return Notebook(name, cells)


def load(path: Path, root: Path = ROOT) -> Notebook:
    """The notebook at `path`, a file below `root`."""
    return from_json(path.relative_to(root).as_posix(), json.loads(path.read_text(encoding="utf-8")))


def notebook_paths(root: Path = ROOT) -> list[Path]:
    """Every notebook in the order of reading: the engine room, the chapters, other pages, the front page last.

    A folder called like a chapter, `climb/` for `10_climb.ipynb`, holds its machinery and comes right before it.
    """
    nbs = root / settings(root).get("nbs_path", "nbs")
    chapters = {path.stem[3:]: path.name for path in nbs.glob("[0-9][0-9]_*.ipynb")}

    def rank(path: Path) -> tuple[int, str, bool, str]:
        name = path.relative_to(nbs).as_posix()
        folder = name.split("/")[0]
        if folder in chapters:
            return 1, chapters[folder], False, name
        kind = 0 if folder == "engine" else 1 if re.match(r"\d\d_", name) else 3 if name == "index.ipynb" else 2
        return kind, name, True, name

    hidden = [p for p in nbs.rglob("*.ipynb") if any(part[0] in "._" for part in p.relative_to(nbs).parts)]
    return sorted(set(nbs.rglob("*.ipynb")) - set(hidden), key=rank)


def notebooks(root: Path = ROOT) -> list[Notebook]:
    """Every notebook, in the order of reading."""
    return [load(path, root) for path in notebook_paths(root)]


def earlier_modules(path: Path, root: Path = ROOT) -> list[str]:
    """The modules exported by the notebooks before `path`."""
    paths = notebook_paths(root)
    return [m for p in paths[: paths.index(path)] if (m := load(p, root).module)]


def library_files(root: Path = ROOT) -> list[Path]:
    """The modules of the library that people read: all but `__init__.py` and `_modidx.py`."""
    return sorted(p for p in (root / settings(root)["lib_path"]).glob("*.py") if not p.name.startswith("_"))


def digits_in_force() -> str:
    """'mnist' where the library finds all of real MNIST without a download, else 'standin'. Looked up once for each environment."""
    return _digits_found(*map(os.environ.get, ("PIXELS_TO_RESNET_IDX", "FASTAI_HOME", "PIXELS_TO_RESNET_HOME")))


@lru_cache
def _digits_found(*_: str | None) -> str:
    from pixels_to_resnet.idx import DataError
    from pixels_to_resnet.sources import find_source

    with mock.patch.dict(os.environ, {"PIXELS_TO_RESNET_OFFLINE": "1"}):
        try:
            found = {find_source(name, "mnist", say=lambda _: None).dataset for name in ("mnist_sample", "mnist_png")}
        except DataError:
            return "standin"
    return "mnist" if found == {"MNIST"} else "standin"
