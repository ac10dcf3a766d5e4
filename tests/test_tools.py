"""The maintainers' commands: running and saving notebooks, the table of README.md, the environment and last line of the tests."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import code, md, printed, title, write_notebook, write_repository

from pixels_to_resnet.idx import IDX_FILES, DataError, idx_bytes
from pixels_to_resnet.sources import Source, find_source
from tools import notebooks, readme
from tools.course import ROOT, digits_in_force, earlier_modules, load, notebook_paths
from tools.course import notebooks as all_notebooks
from tools.execute import NotebookFailed, execute
from tools.guards.clean import check_clean


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A small repository with an engine room, two chapters and a front page."""
    root = write_repository(tmp_path / "repo")
    write_notebook(root, "index.ipynb", md("# Front page"))
    write_notebook(root, "10_last.ipynb", *title("Last", "last"))
    write_notebook(root, "00_first.ipynb", *title("First | foremost", "first"), code("print(6 * 7)"), code("#| eval: false\n1 / 0"))
    write_notebook(root, "engine/01_wheel.ipynb", *title("Wheel", "wheel"))
    return root


def test_order_and_modules(repo: Path) -> None:
    assert [n.name.removeprefix("nbs/") for n in all_notebooks(repo)] == ["engine/01_wheel.ipynb", "00_first.ipynb", "10_last.ipynb", "index.ipynb"]
    assert [earlier_modules(p, repo) for p in notebook_paths(repo)] == [[], ["wheel"], ["wheel", "first"], ["wheel", "first", "last"]]
    first = load(repo / "nbs" / "00_first.ipynb", repo)
    assert (first.title, first.summary, first.module, first.is_chapter) == ("First | foremost", "What First | foremost is about.", "first", True)


def test_slow_cell_keeps_its_output_until_asked(repo: Path) -> None:
    path = write_notebook(repo, "01_slow.ipynb", *title("Slow", "slow"), code("#| slow\nprint(6 * 7)", printed("41\n")))
    assert [o["text"] for c in execute(path).cells for o in c.get("outputs", [])] == ["41\n"]
    kept, asked = execute(path), execute(path, slow=True)
    assert kept.cells[-1].source == asked.cells[-1].source == "#| slow\nprint(6 * 7)"
    assert [o["text"] for o in asked.cells[-1].outputs] == ["42\n"]


def test_digits_in_force(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real MNIST is in force only where the library says so: a folder that only exists is not enough."""
    for name in ("PIXELS_TO_RESNET_IDX", "PIXELS_TO_RESNET_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path))
    assert digits_in_force() == "standin"
    assert "PIXELS_TO_RESNET_OFFLINE" not in os.environ, "looking must not change the environment"
    monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(tmp_path))
    assert digits_in_force() == "standin", "an empty folder"
    monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(tmp_path / "gone"))
    assert digits_in_force() == "standin"
    idx = tmp_path / "idx"
    idx.mkdir()
    for split in IDX_FILES:
        for file, array in zip(IDX_FILES[split], (np.zeros((10, 28, 28), np.uint8), np.arange(10, dtype=np.uint8))):
            (idx / file).write_bytes(idx_bytes(array))
    monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(idx))
    assert find_source("mnist_png").dataset.startswith("unknown digits")
    assert digits_in_force() == "standin", "digits that are not those of MNIST"
    monkeypatch.delenv("PIXELS_TO_RESNET_IDX")
    fastai = tmp_path / "fastai"
    for name in ("mnist_png", "mnist_sample"):
        (fastai / "data" / name).mkdir(parents=True)
    monkeypatch.setenv("FASTAI_HOME", str(fastai))
    assert digits_in_force() == "standin", "empty folders in fastai's cache"


def test_both_data_sets_must_be_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names: dict[str, str] = {}
    asked = []

    def find(name: str, data: str, say: object) -> Source:
        asked.append((name, data, os.environ["PIXELS_TO_RESNET_OFFLINE"]))
        if name not in names:
            raise DataError("it is not here")
        return Source(names[name], "a test")

    monkeypatch.setattr("pixels_to_resnet.sources.find_source", find)
    cases = [("MNIST", "MNIST", "mnist"), ("MNIST", "", "standin"), ("", "MNIST", "standin"), ("MNIST", "X", "standin")]
    for i, (sample, full, said) in enumerate(cases):
        names.update(mnist_sample=sample, mnist_png=full)
        for name in [name for name, dataset in names.items() if not dataset]:
            del names[name]
        monkeypatch.setenv("PIXELS_TO_RESNET_HOME", str(tmp_path / str(i)))
        assert digits_in_force() == digits_in_force() == said
        names.clear()
    assert asked[:2] == [("mnist_sample", "mnist", "1"), ("mnist_png", "mnist", "1")] and len(asked) == 7, "asked once for each environment"


@pytest.mark.notebook
def test_notebook_is_run_saved_and_clean(repo: Path) -> None:
    path = repo / "nbs" / "00_first.ipynb"
    before = path.read_bytes()
    assert notebooks.run_and_save(path, repo, keep=False) > 0
    assert path.read_bytes() == before
    notebooks.run_and_save(path, repo)
    printing, skipped = load(path, repo).code[1:]
    assert printing.outputs[0]["text"] == ["42\n"] and skipped.outputs == [] and "1 / 0" in skipped.source
    assert check_clean(repo) == []
    again = path.read_bytes()
    notebooks.run_and_save(path, repo)
    assert path.read_bytes() == again
    assert sorted(p.name for p in path.parent.iterdir()) == ["00_first.ipynb", "10_last.ipynb", "engine", "index.ipynb"]


@pytest.mark.notebook
def test_notebook_that_fails_is_not_saved(repo: Path) -> None:
    path = write_notebook(repo, "00_first.ipynb", *title(), code("print(1)"), code("1 / 0"))
    before = path.read_bytes()
    with pytest.raises(NotebookFailed, match="stopped with ZeroDivisionError"):
        notebooks.run_and_save(path, repo)
    assert path.read_bytes() == before


def test_saving_is_refused_on_the_standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("PIXELS_TO_RESNET_IDX", raising=False)
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path))
    assert notebooks.main([]) == 2
    assert "set PIXELS_TO_RESNET_IDX" in capsys.readouterr().out


def test_help_says_that_mnist_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        notebooks.main(["--help"])
    assert "Real MNIST is needed: set PIXELS_TO_RESNET_IDX" in " ".join(capsys.readouterr().out.split())


def test_digits_are_made_before_the_first_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []
    monkeypatch.setattr(notebooks, "digits_in_force", lambda: "mnist")
    monkeypatch.setattr(notebooks, "digits_path", lambda name, say: (done.append(name), say(f"made {name}")))
    monkeypatch.setattr(notebooks, "run_and_save", lambda path, keep, slow: (done.append(path.stem), 1.0)[1])
    assert notebooks.main(["--only", "00_data"]) == 0
    assert done == ["mnist_sample", "mnist_png", "00_data"]
    assert capsys.readouterr().out.splitlines()[:2] == ["made mnist_sample", "made mnist_png"]

    def fails(name: str, say: object) -> None:
        raise DataError("the disk is full; make room.")

    monkeypatch.setattr(notebooks, "digits_path", fails)
    assert notebooks.main(["--only", "00_data"]) == 1
    assert capsys.readouterr().out == "the disk is full; make room.\n" and len(done) == 3


def test_choosing_notebooks(repo: Path) -> None:
    assert [p.stem for p in notebooks.chosen(["10_last", "nbs/00_first.ipynb"], repo)] == ["00_first", "10_last"]
    assert len(notebooks.chosen([], repo)) == 4
    with pytest.raises(ValueError, match="no notebook is called 7"):
        notebooks.chosen(["7"], repo)


def test_times_are_merged(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    notebooks.note_times(file, {"b": 1.26})
    notebooks.note_times(file, {"a": 2.0})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": 2.0, "b": 1.3}


def test_table_of_notebooks(repo: Path) -> None:
    (repo / "tools").mkdir()
    notebooks.note_times(repo / "tools" / "times.json", {"nbs/00_first.ipynb": 41.2})
    text = readme.rewritten(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n", repo)
    goal = "https://colab.research.google.com/github/small-owner/small_course/blob/main/nbs/00_first.ipynb"
    badge = f"[![Open 00_first in Colab]({readme.BADGE})]({goal})"
    row = f"| 00 | [First \\| foremost](nbs/00_first.ipynb) | What First \\| foremost is about. | 45 s | {badge} |"
    assert row in text.splitlines()
    assert "| 01 | [Wheel](nbs/engine/01_wheel.ipynb) | What Wheel is about. | - |" in text.splitlines()
    assert text.count(readme.BADGE) == 2, "only chapters open in Colab"
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.index("10_last") < text.index("engine/01_wheel") and "index.ipynb" not in text
    assert readme.rewritten(text, repo) == text
    with pytest.raises(readme.NoMarkers):
        readme.rewritten("no markers", repo)


@pytest.mark.parametrize(("seconds", "said"), [(None, "-"), (0.4, "5 s"), (41.2, "45 s"), (90, "90 s"), (91, "2 min"), (170, "3 min")])
def test_durations(seconds: float | None, said: str) -> None:
    assert readme.duration(seconds) == said


SUITE = """
import os
import pytest

def test_shared_folder():
    assert os.path.isdir(os.environ["PIXELS_TO_RESNET_HOME"])
    open(os.path.join(os.environ["SEEN"], os.environ.get("PYTEST_XDIST_WORKER", "main")), "w").write(os.environ["PIXELS_TO_RESNET_HOME"])

test_shared_folder_again = test_shared_folder

def test_environment(data_in_force):
    assert os.environ["PIXELS_TO_RESNET_OFFLINE"] == "1" and os.environ["OMP_NUM_THREADS"] == "1"
    assert data_in_force == "standin"

def test_fails(): assert 1 == 2

@pytest.fixture
def broken(): raise OSError

def test_error(broken): pass

@pytest.mark.skip
def test_skipped(): pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_last_line_counts_and_workers_share_a_folder(workers: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    dropped = ("PIXELS_TO_RESNET_HOME", "PIXELS_TO_RESNET_IDX", "PIXELS_TO_RESNET_OFFLINE", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    env |= {"PYTHONPATH": str(ROOT), "FASTAI_HOME": str(tmp_path), "SEEN": str(seen)}
    command = [sys.executable, "-m", "pytest", "-n", workers, "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "digits in force: the stand-in" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 passed, 2 failed, 1 skipped"
    folders = {path.read_text(encoding="utf-8") for path in seen.iterdir()}
    assert len(folders) == 1 and not Path(folders.pop()).exists()
