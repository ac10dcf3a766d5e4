"""The recipe of a container for GPU machines. No container is built here, but its words, its files and its first stage are checked."""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tools.course import ROOT, settings
from tools.runner import runner_requirements

LIB = settings()["lib_name"]
RECIPE = (ROOT / "Containerfile").read_text(encoding="utf-8")
WORDS = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "ENTRYPOINT"}


def instructions(recipe: str = RECIPE) -> list[tuple[str, list[str]]]:
    """The instructions of a recipe: the word each begins with, and its other words."""
    lines = re.sub(r"^#.*\n", "", recipe, flags=re.M).replace("\\\n", " ").splitlines()
    return [(line.split()[0], shlex.split(line)[1:]) for line in lines if line.strip()]


def copied(recipe: str = RECIPE) -> list[tuple[str, str]]:
    """What the recipe takes from the checkout, and where to in its folder."""
    return [(source, words[-1]) for word, words in instructions(recipe) if word == "COPY" and "--from" not in words[0] for source in words[:-1]]


def built(recipe: str, top: Path) -> subprocess.CompletedProcess[str]:
    """Run the first stage here: its folder, and what it runs there, without the network."""
    folder, dist = top / "source", top / "dist"
    for source, place in copied(recipe):
        target = folder / place / ("" if (ROOT / source).is_dir() else Path(source).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / source, target, ignore=ignore) if (ROOT / source).is_dir() else shutil.copy(ROOT / source, target)
    script = next(" ".join(words) for word, words in instructions(recipe) if word == "RUN")
    for old, new in (("/dist", str(dist)), ("python -m", f"{sys.executable} -m"), ("pip wheel", "pip wheel --no-build-isolation --no-index")):
        script = script.replace(old, new)
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)


def test_the_recipe_is_made_of_known_words_and_two_stages() -> None:
    found = instructions()
    assert {word for word, _ in found} <= WORDS and [word for word, _ in found].count("FROM") == 2
    assert [words[0] for word, words in found if word == "FROM"] == ["python:${PYTHON}-slim"] * 2, "a tag, without a registry"
    stages = {words[2] for word, words in found if word == "FROM" and words[1:2] == ["AS"]}
    assert {words[0].removeprefix("--from=") for word, words in found if word == "COPY" and words[0].startswith("--from=")} == stages
    python = next(words[0] for word, words in found if word == "ARG").removeprefix("PYTHON=")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    assert python in workflow["jobs"]["linux"]["strategy"]["matrix"]["python"], "the tests run with this Python"


def test_the_recipe_runs_climb_as_nobody_in_particular_and_keeps_data_and_results() -> None:
    found = dict(instructions())
    assert json.loads(" ".join(re.search(r"^ENTRYPOINT (.+)$", RECIPE, re.M)[1].split())) == ["climb"]
    assert json.loads(re.search(r"^VOLUME (.+)$", RECIPE, re.M)[1]) == ["/data", "/results"] and found["WORKDIR"] == ["/results"]
    user = found["USER"][0]
    assert user not in ("root", "0") and re.search(rf"useradd --uid [1-9]\d+ [^\n]*\b{user}\b", RECIPE)
    last = [word for word, _ in instructions()]
    assert last.index("USER") > max(i for i, word in enumerate(last) if word == "RUN"), "what is installed belongs to root"


def test_the_recipe_writes_no_version_of_a_package() -> None:
    packages_named = {re.match(r"[\w.-]+", line)[0] for key in ("requirements", "dev_requirements") for line in settings()[key].split()}
    commands = " ".join(" ".join(words) for word, words in instructions() if word == "RUN")
    assert not set(re.findall(r"[\w.-]+", commands)) & (packages_named - {"pip"}) and not re.search(r"[\w\]][=<>~]=", commands)


def test_what_the_recipe_copies_is_there_and_not_ignored() -> None:
    lines = [line for line in (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    let_through = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*" and {Path(source).parts[0] for source, _ in copied()} == let_through
    assert [source for source, _ in copied() if not (ROOT / source).exists()] == []


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_the_first_stage_builds_the_wheel_from_what_it_copies(tmp_path: Path) -> None:
    done = built(RECIPE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dist" / "runner.txt").read_text(encoding="utf-8").splitlines() == runner_requirements(ROOT)
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        assert {p.name for p in (ROOT / LIB).glob("*.py")} == {Path(n).name for n in wheel.namelist() if n.startswith(f"{LIB}/")}


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("forgotten", ["settings.ini ", "README.md ", "tools/runner.py "])
def test_a_first_stage_that_forgets_a_file_fails(forgotten: str, tmp_path: Path) -> None:
    assert forgotten in RECIPE and built(RECIPE.replace(forgotten, ""), tmp_path).returncode != 0
