"""The wheel on a machine with only what a runner needs: no network, no notebooks, no fastai."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image, ImageDraw
from small import write_repository

from pixels_to_resnet.climb import RUNGS, main
from pixels_to_resnet.idx import IDX_FILES, idx_bytes
from tools.course import ROOT, files, settings
from tools.guards.requirements import check_runner, needed, normal, packages
from tools.runner import runner_requirements

LIB = settings()["lib_name"]
NEEDED = settings()["runner_requirements"].split()

# What runs in the other process: nothing of this checkout, no network, and of the installed modules not those that are hidden: they are not
# refused but not found, because some packages ask whether others are there.
BOOTSTRAP = """
import json, sys
from importlib.machinery import PathFinder
from importlib.metadata import Distribution

library, site, hidden, name, words = json.loads(sys.argv[1])

class Visible(PathFinder):
    @classmethod
    def find_spec(cls, module, path=None, target=None):
        return None if module.split(".")[0] in hidden else super().find_spec(module, path, target)

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"): raise OSError("this machine has no network")

sys.meta_path[sys.meta_path.index(PathFinder)] = Visible
sys.path += [library, *site]
sys.addaudithook(no_network)
sys.argv = [name, *words]
scripts = next(Distribution.discover(name="LIB", path=[library])).entry_points
main = next(e for e in scripts if (e.group, e.name) == ("console_scripts", name)).load()
assert sys.modules["LIB"].__file__.startswith(library), sys.modules["LIB"].__file__
raise SystemExit(main())
""".replace("LIB", LIB)


def closure(names: Iterable[str]) -> set[str]:
    """The installed packages that pip would install for `names`, as it compares names."""
    waiting, seen = [Requirement(name) for name in names], set()
    while waiting:
        wanted = waiting.pop()
        if (key := (normal(wanted.name), frozenset(wanted.extras))) in seen:
            continue
        try:
            lines = metadata.requires(wanted.name) or []
        except metadata.PackageNotFoundError:
            continue
        seen.add(key)
        more = [Requirement(line) for line in lines]
        waiting += [m for m in more if m.marker is None or any(m.marker.evaluate({"extra": e}) for e in ("", *wanted.extras))]
    return {name for name, _ in seen}


def foreign(names: Iterable[str]) -> list[str]:
    """The modules installed here that a machine with only `names`, and what these need, would not have."""
    kept = closure(names) | {normal(LIB)}
    return sorted(module for module, brought_by in packages().items() if not kept & {normal(name) for name in brought_by})


def write_wheel(copy: Path, out: Path) -> Path:
    """The wheel of what the repository holds, built with the installed setuptools and so without a network."""
    for path in files():
        if path.parent in (ROOT, ROOT / settings()["lib_path"]):
            (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(ROOT))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", out, copy]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, and nothing else."""
    top = tmp_path_factory.mktemp("wheel")
    wheel = write_wheel(top / "copy", top / "dist")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", top / "library", wheel]
    subprocess.run(command, check=True, capture_output=True)
    return top / "library"


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def lean(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """`lean(word, ...)` runs a command of the wheel where only `having` is installed; its caches stay for the next."""
    place = tmp_path_factory.mktemp("lean")
    (place / "bootstrap.py").write_text(BOOTSTRAP, encoding="utf-8")
    site = sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")})

    def run(*words: str, having: Iterable[str] = tuple(NEEDED), command: str = "climb") -> subprocess.CompletedProcess[str]:
        told = json.dumps([str(library), site, foreign(having), command, [str(word) for word in words]])
        homes = {"PIXELS_TO_RESNET_HOME": str(place / "cache"), "FASTAI_HOME": str(place / "fastai")}
        unset = {"PIXELS_TO_RESNET_IDX": "", "PIXELS_TO_RESNET_OFFLINE": ""}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**homes, **unset}.items():
                patch.setenv(name, value)
            start = [sys.executable, "-I", "-S", str(place / "bootstrap.py"), told]
            return subprocess.run(start, cwd=place, capture_output=True, text=True, encoding="utf-8", timeout=300)

    return run


# ---- the wheel


QUICK = ("--rungs", "pixel_similarity", "linear", "--epochs", "1", "--quiet", "--device", "cpu")


def test_what_is_hidden_is_what_a_runner_lacks() -> None:
    hidden = foreign(NEEDED)
    assert {"fastai", "spacy", "pandas", "graphviz", "nbdev", "pytest", "IPython"} <= set(hidden)
    assert not {LIB, "torch", "numpy", "PIL", "sklearn", "scipy", "matplotlib"} & set(hidden), "scipy comes with scikit-learn"


def test_climb_runs_from_the_wheel_on_the_stand_in(lean: Call, tmp_path: Path) -> None:
    done = lean(*QUICK, "--data", "standin", "--json", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["data"]["mnist_sample"]["name"] == "stand-in" and all(rung["accuracy"] > 0.8 for rung in report["rungs"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json", "scoreboard.png", "weights"]


def test_without_a_package_that_it_needs_the_same_command_fails(lean: Call, tmp_path: Path) -> None:
    missing = "safetensors"
    done = lean(*QUICK, "--data", "standin", "--out", tmp_path / "out", having=[name for name in NEEDED if name != missing])
    assert done.returncode == 1 and f"ModuleNotFoundError: No module named '{missing}" in done.stderr


def test_without_fastai_one_sentence_says_so_and_climb_goes_on(lean: Call, tmp_path: Path) -> None:
    done = lean(*QUICK, "--json", "--out", tmp_path / "out")
    assert done.returncode == 0 and json.loads(done.stdout)["data"]["mnist_sample"]["name"] == "stand-in"
    told = done.stderr.splitlines()
    assert len(told) == 1 and told[0].startswith("This is the stand-in, not MNIST (the download failed: fastai is not installed): ")


def test_without_fastai_mnist_cannot_be_insisted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "fastai.data.external", None)
    for name, value in {"FASTAI_HOME": str(tmp_path), "PIXELS_TO_RESNET_IDX": "", "PIXELS_TO_RESNET_OFFLINE": ""}.items():
        monkeypatch.setenv(name, value)
    assert main([*QUICK, "--data", "mnist", "--out", str(tmp_path / "out")]) == 2
    out, told = capsys.readouterr()
    why = "MNIST was not found (the download failed: fastai is not installed); install fastai, or set PIXELS_TO_RESNET_IDX"
    assert out == "" and told.startswith(f"climb: {why}") and told.count("\n") == 1


@pytest.fixture(scope="module")
def six(lean: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all the rungs leave after an epoch on a folder of a few IDX images."""
    top, rng = tmp_path_factory.mktemp("six"), np.random.default_rng(0)
    (top / "idx").mkdir()
    for (images, labels), n in zip(IDX_FILES.values(), (300, 100)):
        (top / "idx" / images).write_bytes(idx_bytes(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        (top / "idx" / labels).write_bytes(idx_bytes((np.arange(n) % 10).astype(np.uint8)))
    options = ("--epochs", "1", "--resume", "--junit", top / "report.xml", "--quiet", "--device", "cpu", "--json")
    done = lean("--data", top / "idx", *options, "--out", top / "out")
    assert done.returncode == 0, done.stderr
    assert [rung["name"] for rung in json.loads(done.stdout)["rungs"]] == [rung.name for rung in RUNGS]
    return top / "out"


def test_every_rung_climbs_on_a_folder_of_idx_files(six: Path) -> None:
    assert {p.stem for p in (six / "weights").glob("*.safetensors")} == {rung.name for rung in RUNGS}
    assert len(ElementTree.parse(six.parent / "report.xml").findall(".//testcase")) >= len(RUNGS)


def test_pictures_are_named_by_every_rung(six: Path, lean: Call, tmp_path: Path) -> None:
    picture = Image.new("L", (60, 60), 255)
    ImageDraw.Draw(picture).line([(30, 10), (30, 50)], fill=0, width=6)
    picture.save(tmp_path / "one.png")
    done = lean("predict", tmp_path / "one.png", "--weights", six / "weights", "--json")
    assert done.returncode == 0, done.stderr
    assert {answer["rung"] for answer in json.loads(done.stdout)["pictures"][0]["answers"]} == {rung.name for rung in RUNGS}


def test_the_wheel_has_the_commands_and_starts_where_no_package_is_imported(lean: Call, library: Path) -> None:
    scripts = {e.name: e.value for e in metadata.Distribution.at(next(library.glob("*.dist-info"))).entry_points if e.group == "console_scripts"}
    assert scripts == {name: f"{LIB}.{name}:main" for name in ("climb", "speedrun")}
    for name in scripts:
        done = lean("--help", command=name, having=[])
        assert done.returncode == 0 and "--device" in done.stdout, done.stderr


# ---- what a runner installs


def test_runner_requirements_are_lines_of_requirements() -> None:
    lines = settings()["requirements"].split()
    assert set(runner_requirements(ROOT)) < set(lines) and [re.match(r"[\w.-]+", line)[0] for line in runner_requirements(ROOT)] == NEEDED
    assert not {"fastai", "pandas", "graphviz", "networkx", "jinja2"} & set(NEEDED)


def test_the_list_for_a_runner_needs_nothing_but_python(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", ROOT / "tools" / "runner.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == runner_requirements(ROOT)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A small repository whose command reaches two modules of three, and two packages."""
    root = write_repository(tmp_path / "repo")
    path = root / "settings.ini"
    lines = "requirements = numpy>=1 tqdm>=4 pyyaml>=6\nrunner_requirements = numpy tqdm"
    path.write_text(path.read_text(encoding="utf-8").replace("requirements =", lines), encoding="utf-8")
    entries = 'entry_points={"console_scripts": [f"go={lib}.one:main"], "nbdev": [f"x={lib}.three:d"]}'
    (root / "setup.py").write_text(f"setup({entries})\n", encoding="utf-8")
    (root / "small").mkdir()
    (root / "small" / "one.py").write_text('import numpy\nFIT = "two:fit"\n', encoding="utf-8")
    (root / "small" / "two.py").write_text("def fit():\n    from tqdm import tqdm\n", encoding="utf-8")
    (root / "small" / "three.py").write_text("import yaml\n", encoding="utf-8")
    return root


def test_a_lean_runner_is_accepted(repo: Path) -> None:
    assert check_runner(repo) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "what"),
    [
        ("settings.ini", "requirements = numpy tqdm", "requirements = tqdm", "small/one.py: a command of setup.py needs numpy here; add numpy to"),
        ("settings.ini", "requirements = numpy tqdm", "requirements = numpy", "small/two.py: a command of setup.py needs tqdm here; add tqdm to"),
        ("settings.ini", "= numpy tqdm", "= numpy tqdm pyyaml", "runner_requirements names pyyaml, which no command of setup.py needs"),
        ("settings.ini", "= numpy tqdm", "= numpy tqdm pytest", "runner_requirements names pytest, which is no package of requirements"),
        ("small/one.py", "FIT =", "from .three import d\nFIT =", "small/three.py: a command of setup.py needs yaml here; add pyyaml to"),
        ("small/one.py", "FIT =", "from small import three\nFIT =", "small/three.py: a command of setup.py needs yaml"),
        ("small/two.py", "tqdm import tqdm", "small.three import d", "runner_requirements names tqdm, which no command of setup.py needs"),
    ],
)
def test_a_runner_that_lacks_something_or_has_too_much_is_rejected(name: str, old: str, new: str, what: str, repo: Path) -> None:
    text = (repo / name).read_text(encoding="utf-8")
    assert old in text
    (repo / name).write_text(text.replace(old, new), encoding="utf-8")
    assert any(what in complaint for complaint in check_runner(repo)), check_runner(repo)


def test_what_a_module_can_do_without_is_no_need() -> None:
    caught = "try:\n    import yaml\nexcept (OSError, ImportError):\n    import tqdm\nelse:\n    import numpy\n"
    assert needed(caught, "small", set()) == ({"tqdm", "numpy"}, set())
    assert needed(caught.replace("(OSError, ImportError)", "OSError"), "small", set())[0] == {"yaml", "tqdm", "numpy"}
    assert needed("if TYPE_CHECKING:\n    import yaml\nelse:\n    import tqdm\n", "small", set())[0] == {"tqdm"}
    ways = "from . import one\nimport small.two\nx = 'three'\ny = 'four:go'\n'five is no module'"
    assert needed(ways, "small", {"one", "two", "three", "four", "five"})[1] == {"one", "two", "three", "four"}
