"""Notebooks are clean, and the library is exactly what they export."""
from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.course import OUTPUT_FOLDERS, files, script, settings

TIMEOUT = 180


def _copy(root: Path, target: Path) -> None:
    """Copy what nbdev needs: settings.ini, _quarto.yml, the notebooks and the library."""
    wanted = {settings(root)["nbs_path"], settings(root)["lib_path"], "settings.ini", "_quarto.yml", "setup.py", "README.md"}
    for path in files(root):
        name = path.relative_to(root)
        if name.parts[0] in wanted:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


def _nbdev(command: str, folder: Path) -> str:
    """Run one of nbdev's commands in `folder`; its complaint, or an empty string."""
    done = subprocess.run([script(command)], cwd=folder, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=TIMEOUT)
    said = (done.stdout + done.stderr).strip()
    if done.returncode or "Failed to" in said:
        return f"{command} failed: {said.splitlines()[-1] if said else 'it said nothing'}"
    return ""


def _lines(path: Path) -> bytes:
    """A file with its lines ended as on Linux; nbdev ends them as the system does, git here never with a carriage return."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def check_clean(root: Path) -> list[str]:
    """`nbdev_clean` would change no notebook (tried on a copy)."""
    with tempfile.TemporaryDirectory(prefix="clean") as temporary:
        copy = Path(temporary)
        _copy(root, copy)
        nbs = copy / settings(root)["nbs_path"]
        before = {p: _lines(p) for p in sorted(nbs.rglob("*.ipynb"))}
        failed = _nbdev("nbdev_clean", copy)
        changed = [p.relative_to(copy).as_posix() for p, data in before.items() if _lines(p) != data]
    return ([f"{failed}; repair the notebook it names."] if failed else []) + [
        f"{name} is not clean; run `nbdev_clean` and commit the result." for name in changed
    ]


def check_in_step(root: Path) -> list[str]:
    """The library holds what `nbdev_export` writes from the notebooks (tried on a copy), but for the ends of lines, and nothing else."""
    lib = settings(root)["lib_path"]
    with tempfile.TemporaryDirectory(prefix="export") as temporary:
        copy = Path(temporary)
        _copy(root, copy)
        for path in (copy / lib).rglob("*.py"):
            path.unlink()
        failed = _nbdev("nbdev_export", copy)
        fresh = {p.relative_to(copy).as_posix(): _lines(p) for p in (copy / lib).rglob("*.py")}
    found = (p for p in (root / lib).rglob("*.py") if not OUTPUT_FOLDERS.intersection(p.relative_to(root).parts))
    saved = {p.relative_to(root).as_posix(): _lines(p) for p in found}
    remedy = "run `nbdev_export` and commit the result."
    return (
        ([f"{failed}; repair the notebook it names."] if failed else [])
        + [f"{name} comes from no notebook; delete it, or write the notebook that exports it." for name in sorted(saved.keys() - fresh.keys())]
        + [f"{name} is exported by a notebook but missing; {remedy}" for name in sorted(fresh.keys() - saved.keys())]
        + [f"{name} differs from its notebook; {remedy}" for name in sorted(fresh.keys() & saved.keys()) if fresh[name] != saved[name]]
    )
