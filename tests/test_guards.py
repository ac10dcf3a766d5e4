"""Each guard accepts the repository, accepts a small correct example, and rejects a deliberate break of each of its rules."""
from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import code, md, printed, shown, title, write_notebook, write_repository

from tools.course import ROOT, Notebook, from_json, load, notebook_paths, script
from tools.guards import GUARDS, SLOW
from tools.guards.alone import check_notebook_alone, differing_cells, with_saved_variants
from tools.guards.anatomy import check_anatomy, check_notebook_anatomy
from tools.guards.clean import check_clean, check_in_step
from tools.guards.commands import check_command, check_commands, climb_parser, shown_commands
from tools.guards.figures import check_figures, check_notebook_figures
from tools.guards.library import check_library, check_module
from tools.guards.links import check_home, check_links, github_slug, quarto_slug
from tools.guards.lint import check_lint
from tools.guards.nbdevtest import check_nbdev_test
from tools.guards.numbers import ANYWHERE, check_notebook_numbers, is_produced, mentions, produced, sections
from tools.guards.outputs import check_notebook_outputs, check_outputs
from tools.guards.requirements import check_requirements, imported
from tools.guards.spelling import check_spelling
from tools.guards.table import check_table
from tools.guards.traces import check_text_traces, check_traces
from tools.guards.workflows import check_workflow, check_workflows

Cells = dict[str, Any]


def book(*cells: Cells, name: str = "nbs/engine/01_one.ipynb") -> Notebook:
    """A notebook in memory."""
    return from_json(name, {"cells": [{**c, "id": f"cell{i}"} for i, c in enumerate(cells)]})


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A small repository without notebooks."""
    return write_repository(tmp_path / "repo")


def told(complaints: list[str]) -> str:
    """The only complaint of a list."""
    assert len(complaints) == 1, complaints
    return complaints[0]


# The repository as it is


@pytest.mark.parametrize("name", GUARDS)
def test_repository_is_accepted(name: str) -> None:
    complaints = GUARDS[name](ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.notebook
@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in notebook_paths(ROOT)])
def test_notebook_runs_alone(path: Path, data_in_force: str) -> None:
    complaints = check_notebook_alone(path, ROOT, data_in_force)
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.notebook
def test_nbdev_test_passes(data_in_force: str) -> None:
    """Once, on the stand-in: on MNIST every notebook has just run alone, and a second time takes as long again."""
    if data_in_force == "mnist":
        pytest.skip("runs on the stand-in; python -m tools.guards nbdev_test runs it on any digits")
    complaints = check_nbdev_test(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


# Clean notebooks, and a library in step with them


@pytest.fixture
def exported(repo: Path) -> Path:
    """A small repository whose library has just been exported."""
    exporting, varying = code("#| export\ndef one() -> int:\n    'One.'\n    return 1"), code("#| varies: true\none()", shown(text_plain="1"))
    write_notebook(repo, "00_one.ipynb", *title(module="one"), exporting, varying)
    subprocess.run([script("nbdev_export")], cwd=repo, check=True, capture_output=True)
    return repo


def test_clean(exported: Path) -> None:
    assert check_clean(exported) == []
    notebook = exported / "nbs" / "00_one.ipynb"
    dirty = notebook.read_text(encoding="utf-8").replace('"execution_count": null', '"execution_count": 7')
    notebook.write_text(dirty, encoding="utf-8")
    assert "00_one.ipynb is not clean; run `nbdev_clean`" in told(check_clean(exported))
    assert notebook.read_text(encoding="utf-8") == dirty, "the guard must not change the tree"


def test_broken_notebook_is_not_clean(exported: Path) -> None:
    (exported / "nbs" / "01_two.ipynb").write_text('{"cells": [', encoding="utf-8")
    assert any("nbdev_clean failed" in complaint for complaint in check_clean(exported))


def test_library_in_step(exported: Path) -> None:
    assert check_in_step(exported) == []
    module, index = exported / "small" / "one.py", exported / "small" / "_modidx.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(text.replace("return 1", "return 2"), encoding="utf-8")
    index.unlink()
    (exported / "small" / "stray.py").write_text("x = 1\n", encoding="utf-8")
    stray, missing, differs = check_in_step(exported)
    assert "small/stray.py comes from no notebook" in stray
    assert "small/_modidx.py is exported by a notebook but missing" in missing
    assert "small/one.py differs from its notebook; run `nbdev_export`" in differs
    assert "return 2" in module.read_text(encoding="utf-8"), "the guard must not change the tree"


# What a Python process does at its start so that it writes text as on Windows.
AS_ON_WINDOWS = """
import builtins, io
real = io.open
def windows(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if "b" not in mode and newline is None and set(mode) & set("wax"):
        newline = "\\r\\n"
    return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
io.open = builtins.open = windows
"""


def test_ends_of_lines_on_windows_are_let_off(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(AS_ON_WINDOWS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = exported / "small" / "one.py"
    assert check_in_step(exported) == [] and check_clean(exported) == []
    module.write_bytes(module.read_bytes().replace(b"return 1", b"return 2"))
    assert "small/one.py differs" in told(check_in_step(exported))
    monkeypatch.delenv("PYTHONPATH")
    module.write_bytes(module.read_bytes().replace(b"return 2", b"return 1").replace(b"\r", b"").replace(b"\n", b"\r\n"))
    assert check_in_step(exported) == []
    subprocess.run([sys.executable, "-c", "open('x', 'w').write('a\\n')"], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)} | _system(), check=True)
    assert (tmp_path / "x").read_bytes() == b"a\r\n", "the simulation must really write as on Windows"


def _system() -> dict[str, str]:
    """What a process needs to start on Windows, and nothing elsewhere."""
    return {name: os.environ[name] for name in ("SYSTEMROOT", "PATH") if name in os.environ}


def test_climb_predict_is_checked_with_its_own_parser() -> None:
    parser = climb_parser(ROOT)
    for words, wanted in (
        (["predict", "seven.png", "--weights", "there"], ""), (["predict", "seven.png", "--check"], "it has no flag --check"),
        (["predict"], "required: IMAGE"), (["foretell", "seven.png"], "unrecognized arguments: foretell seven.png"),
    ):  # fmt: skip
        assert wanted in (found := check_command(["climb", *words], True, ROOT, parser)) and bool(found) == bool(wanted), words


# Every notebook runs alone, with only the modules of earlier ones


def test_notebook_has_earlier_modules_only() -> None:
    """The library of this repository is installed editable, so that all of it can be found from everywhere: the guard must hide it."""
    order = [p for p in notebook_paths(ROOT) if load(p).module]
    assert len(order) >= 2
    names = [p.parent.name + "/" + p.name for p in order]
    assert [n.split("/")[0] for n in names[:16]] == ["engine"] * 16
    climb = sorted(path.name for path in (ROOT / "nbs" / "climb").glob("*.ipynb"))
    assert len(climb) == 16 and names[-17:] == [*(f"climb/{name}" for name in climb), "nbs/10_climb.ipynb"]
    before = {"linear/01_batches.ipynb": "nbs/04_linear.ipynb", "learner/01_weights.ipynb": "nbs/05_learner.ipynb"}
    assert all(names.index(machinery) < names.index(chapter) for machinery, chapter in before.items())


@pytest.mark.notebook
def test_earlier_module_is_found_and_later_one_refused(repo: Path) -> None:
    library = repo / "small"
    library.mkdir()
    (library / "__init__.py").write_text("", encoding="utf-8")
    for name in ("one", "two", "three"):
        (library / f"{name}.py").write_text(f"value = '{name}'\n", encoding="utf-8")
    write_notebook(repo, "00_one.ipynb", *title(module="one"))
    good = write_notebook(repo, "01_two.ipynb", *title(module="two"), code("from small.one import value"), code("value", shown(text_plain="'one'")))
    write_notebook(repo, "02_three.ipynb", *title(module="three"))
    assert check_notebook_alone(good, repo, "mnist") == []
    bad = write_notebook(repo, "01_two.ipynb", *title(module="two"), code("import sys\nsys.path.insert(0, '..')\nfrom small.three import value"))
    assert "small.three is not exported by an earlier notebook" in told(check_notebook_alone(bad, repo, "mnist"))


@pytest.mark.notebook
def test_editable_install_does_not_leak(tmp_path: Path) -> None:
    """The same with the real library, which the environment knows by its editable install, in this process and in those it starts."""
    root = write_repository(tmp_path / "repo")
    text = (root / "settings.ini").read_text(encoding="utf-8").replace("= small\n", "= pixels_to_resnet\n")
    (root / "settings.ini").write_text(text, encoding="utf-8")
    tries = "import subprocess, sys\nsource = 'import pixels_to_resnet.data'\ntry:\n    exec(source)\nexcept ModuleNotFoundError as e:\n    print(e)"
    again = "subprocess.run([sys.executable, '-c', source], capture_output=True).returncode"
    refusal = "pixels_to_resnet.data is not exported by an earlier notebook; the earlier modules are: none\n"
    path = write_notebook(root, "00_one.ipynb", *title(), code(tries, printed(refusal)), code(again, shown(text_plain="1")))
    assert check_notebook_alone(path, root, "mnist") == []


@pytest.mark.notebook
def test_failing_and_endless_notebooks_are_rejected(repo: Path) -> None:
    failing = write_notebook(repo, "00_one.ipynb", *title(), code("assert 1 == 2, 'one is not two'"))
    assert "one is not two" in told(check_notebook_alone(failing, repo, "standin"))
    endless = write_notebook(repo, "00_one.ipynb", *title(), code("import time\ntime.sleep(60)"))
    assert "took longer than 1 seconds" in told(check_notebook_alone(endless, repo, "standin", timeout=1))


def test_saved_text_must_be_what_the_cell_prints() -> None:
    saved = book(code("print(x)", printed("0.5\n")), code("y", shown(text_plain="2", image_png="a")))
    assert differing_cells(saved, book(code("print(x)", printed("0.5\n")), code("y", shown(text_plain="2", image_png="b")))) == []
    assert "cell cell0: the saved output is not" in told(differing_cells(saved, book(code("print(x)", printed("0.6\n")), saved_cell(saved, 1))))
    assert "cell cell1: the saved output is not" in told(differing_cells(saved, book(code("print(x)", printed("0.5\n")), code("y"))))
    let_off = code("#| varies: true\ntime()", shown(text_plain="1"))
    assert differing_cells(book(let_off), book({**let_off, "outputs": [shown(text_plain="2")]})) == []
    table = code("frame", shown(text_plain="1", text_html="<td>1</td>"))
    assert differing_cells(book(table), book({**table, "outputs": [shown(text_plain="1", text_html="<td>2</td>")]}))


def test_prose_about_a_cell_that_varies_is_held_to_its_saved_output_only_where_it_says_so() -> None:
    prose, trained = md("The accuracy is 0.981."), code("#| varies: true\nfit()", shown(text_plain="0.9814"))
    saved, elsewhere = book(trained, prose), book({**trained, "outputs": [shown(text_plain="0.9823")]}, prose)
    assert check_notebook_numbers(with_saved_variants(saved, elsewhere)) == []
    exact = code("count()", shown(text_plain="0.9814"))
    saved, elsewhere = book(exact, prose), book({**exact, "outputs": [shown(text_plain="0.9823")]}, prose)
    assert "no output of this notebook gives 0.981" in told(check_notebook_numbers(with_saved_variants(saved, elsewhere)))


def test_address_and_carriage_return_of_a_fresh_output_are_let_off() -> None:
    saved = book(code("x", shown(text_plain="<T>")), code("!ls", printed("a\nb\n")))
    assert differing_cells(saved, book(code("x", shown(text_plain="<T at 0x7f3b2c1d>")), code("!ls", printed("a\r\nb\r\n")))) == []


@pytest.mark.notebook
def test_new_warning_is_rejected(repo: Path) -> None:
    warns = code("import warnings\nwarnings.warn('too slow')")
    assert "a warning on standard error" in told(check_notebook_alone(write_notebook(repo, "00_one.ipynb", *title(), warns), repo, "standin"))
    progress = code("from tqdm import tqdm\nfor i in tqdm(range(3)): pass")
    assert check_notebook_alone(write_notebook(repo, "00_one.ipynb", *title(), progress), repo, "standin") == []


def saved_cell(notebook: Notebook, i: int) -> Cells:
    cell = notebook.cells[i]
    return code(cell.source, *cell.outputs)


# Numbers


OUTPUTS = code("show", printed("accuracy 0.9834 after 20 steps, 1,028 sevens\n"), shown(text_plain="tensor([-0.1114, 3.0000e-04])"))
TABLE = code("frame", shown(text_html="<table><tr><th>share (%)</th></tr><tr><td>95.11</td></tr></table>"))


@pytest.mark.parametrize(
    "prose",
    [
        "The accuracy is 0.9834, or 0.983, or .98, or 98.34 %, 98.3%, 98 percent, **98 %**, $98\\,\\%$, `0.9834`, $0.98$.",
        "The mean is -0.1114, about \u22120.11; the step is 3e-4, or 0.0003, or $3 \\times 10^{-4}$.",
        "A share of 95.11 %, 95.1 % or 95 %, between 95 and 98 %.",
        "### 3.2 Files of version 1.0\n\nThere are 28 by 28 pixels, 1,028 sevens, 20 steps, and 6,131 threes.",
        "The MLP has 97.5 % (quoted: chapter 06), and **0.77** (quoted: the paper), 96 to 97 % (quoted: chapter 04).",
        "nbdev 2.4.14 on Python 3.10, torch 2.11 (section 3.2, figure 4.1), CC BY 4.0, Apache-2.0, v1.5, version 1.2.",
        "```python\nx = 0.123\n```\nand [a link](https://example.org/0.5/1.7) and <https://example.org/0.77> and <img width='0.5'>",
        "LeCun 1998, doi:10.1109/5.726791, arXiv:1512.03385, at step 1. Then 2. And <!-- 0.55 --> nothing.",
    ],
)
def test_numbers_accepted(prose: str) -> None:
    assert check_notebook_numbers(book(md(prose), OUTPUTS, TABLE)) == []


@pytest.mark.parametrize(
    ("prose", "number"),
    [
        ("It is 0.9835.", "0.9835"),
        ("It is 0.99.", "0.99"),
        ("It is .77.", ".77"),
        ("It is 98.35 %.", "98.35 %"),
        ("It is 99 %.", "99 %"),
        ("It is 20 %.", "20 %"),
        ("It is 99 per cent.", "99 per cent"),
        ("It is 0.983 and `0.55`.", "0.55"),
        ("It is $0.55$.", "0.55"),
        ("It is $1{,}028.5$.", "1,028.5"),
        ("It is 0.1114.", "0.1114"),
        ("It is 1.9x as fast.", "1.9"),
        ("It is `[0.98,0.55]`.", "0.55"),
        ("It is 99&nbsp;%.", "99&nbsp;%"),
        ("### 0.55 is the accuracy", "0.55"),
        ("From 94 to 98 %.", "94"),
        ("The step is 1e-5.", "1e-5"),
        ("The step is $2 \\times 10^{-4}$.", "2 \\times 10^{-4}"),
        ("| a | b |\n|---|---|\n| x | 0.834 |", "0.834"),
        ("<details><summary>Answer</summary>It is 0.834.</details>", "0.834"),
        ("![0.834 of them](x.png)", "0.834"),
    ],
)
def test_numbers_rejected(prose: str, number: str) -> None:
    assert f"cell cell0: no output of this notebook gives {number};" in told(check_notebook_numbers(book(md(prose), OUTPUTS)))


def test_number_of_a_caption_is_checked() -> None:
    assert check_notebook_numbers(book(code("#| fig-cap: Accuracy 0.98\nplot()"), OUTPUTS)) == []
    assert "0.55" in told(check_notebook_numbers(book(code("#| fig-cap: Accuracy 0.55\nplot()"), OUTPUTS)))


def test_part_of_a_longer_number_does_not_count() -> None:
    longer = code("show", printed("10.983 0.98999 1.0.5 x0.7\n"))
    for number in ("0.983", "0.5", "0.7", "0.9"):
        assert f"gives {number};" in told(check_notebook_numbers(book(md(f"It is {number}."), longer))), number


SHORT_LIST = code("show", printed("0.7312 0.25\n"))
LONG_LIST = code("show", printed(" ".join(f"0.{i}31" for i in range(10, 23)) + "\n"))
LATER = [md("## One\n\nTEXT"), code("x = 1"), md("## Two\n\nHere."), SHORT_LIST, md("## Exercises\n\nBACK"), md("## More\n\nMORE")]


@pytest.mark.parametrize(
    ("here", "text", "wrong"),
    [
        ("TEXT", "It is 0.731.", "0.731 in this section or an earlier one"),
        ("TEXT", "It is 0.7.", "no short output of this section gives 0.7,"),
        ("TEXT", "It is 73 %.", "no short output of this section gives 73 %,"),
        ("Here.", "It is 0.731, or 0.7, or 73 %, or 25 %.", ""),
        ("BACK", "It is 0.731, or 0.7, or 73 %, or 25 %.", ""),
        ("MORE", "It is 0.731, or 0.7312, or 73.1 %.", ""),
        ("MORE", "It is 0.7.", "no short output of this section gives 0.7,"),
        ("MORE", "It is 73 %.", "no short output of this section gives 73 %,"),
    ],
)
def test_number_comes_from_its_section_or_an_earlier_one(here: str, text: str, wrong: str) -> None:
    complaints = check_notebook_numbers(book(*[{**c, "source": c["source"].replace(here, text)} for c in LATER]))
    assert wrong in told(complaints) if wrong else complaints == []


def test_sections_within_a_cell_and_in_fences() -> None:
    both = md("## One\n\nIt is 0.7.\n\n## Two\n\nIt is 0.7.\n\n```\n## no heading\n```")
    assert "cell cell0: no short output" in told(check_notebook_numbers(book(both, SHORT_LIST)))
    caption = code("#| fig-alt: It ends at 0.7\nplot()")
    assert check_notebook_numbers(book(md("## One"), SHORT_LIST, caption)) == []
    assert "0.7" in told(check_notebook_numbers(book(caption, md("## One"), SHORT_LIST)))


def test_long_list_does_not_give_short_numbers() -> None:
    assert check_notebook_numbers(book(md("It is 0.1031, or 0.103, or 10.3 %."), LONG_LIST)) == []
    for number in ("0.1", "0.10", "10 %", "0.2", "22 %"):
        assert f"gives {number}," in told(check_notebook_numbers(book(md(f"It is {number}."), LONG_LIST))), number
    labelled = code("show", printed("size 0.70 0.80 " + LONG_LIST["outputs"][0]["text"]))
    assert check_notebook_numbers(book(md("It shrinks to 0.70."), labelled)) == [], "as it stands there"
    assert "gives 70 %," in told(check_notebook_numbers(book(md("It shrinks to 70 %."), labelled)))


def test_prose_has_no_more_digits_than_the_output() -> None:
    assert check_notebook_numbers(book(md("It is 0.25. That is 25 %."), SHORT_LIST)) == []
    for number in ("0.250", "25.0 %", "0.73120"):
        assert f"gives {number};" in told(check_notebook_numbers(book(md(f"It is {number}."), SHORT_LIST))), number


def test_few_arbitrary_numbers_are_accepted() -> None:
    """In the chapter with the most numbers hardly any made-up one is let through: on average over its sections, far below one in ten."""
    notebook = load(ROOT / "nbs" / "01_pixel_similarity.ipynb")
    outputs, places = produced(notebook), {number: title for _, number, title, _ in sections(notebook)}
    lessons = [number for number, title in places.items() if title and title not in ANYWHERE]
    assert len(lessons) >= 5 and len(places) >= len(lessons) + 3

    def accepted(numbers: list[str]) -> float:
        probes = list(mentions(". ".join(numbers)))
        assert len(probes) == len(numbers)
        return sum(is_produced(probe, outputs, number) for probe in probes for number in lessons) / len(probes) / len(lessons)

    assert accepted([f"{i} %" for i in range(1, 100)]) < 0.06
    assert accepted([f"0.{i:02}" for i in range(1, 100)]) < 0.06
    assert accepted([f"0.{i:04}" for i in range(1, 10_000, 7)]) < 0.01


def test_quoted_number_needs_its_source() -> None:
    assert "quoted from nowhere" in told(check_notebook_numbers(book(md("It is 0.55 (quoted: )."))))
    assert "gives 0.55;" in told(check_notebook_numbers(book(md("It is 0.55 (quoted)."))))
    assert "gives 0.55;" in told(check_notebook_numbers(book(md("It is 0.55, not 0.66 (quoted: elsewhere)."))))


# Figures


ALT = "#| fig-alt: A curve that falls and then stays level\n"
CAP = "#| fig-cap: The loss\n"


@pytest.mark.parametrize("picture", [shown(image_png="a"), shown(image_jpeg="a"), shown(image_svg__xml="<svg/>"), shown(text_html="<svg></svg>")])
def test_figures(picture: Cells) -> None:
    assert check_notebook_figures(book(code(ALT + CAP + "plot()", picture))) == []
    assert "no alt text" in told(check_notebook_figures(book(code(CAP + "plot()", picture))))
    assert "no caption" in told(check_notebook_figures(book(code(ALT + "plot()", picture))))
    assert "no alt text of 20" in told(check_notebook_figures(book(code("#| fig-alt: A curve\n" + CAP + "plot()", picture))))
    assert "no alt text" in told(check_notebook_figures(book(code("x = 1\n" + ALT + CAP + "plot()", picture)))[:1])


def test_figure_options_must_be_yaml() -> None:
    assert "not YAML" in told(check_notebook_figures(book(code("#| fig-cap: Loss: it falls\nplot()"))))


@pytest.mark.parametrize("good", ["![a digit](x.png)", "![](x.png){fig-alt='a digit'}", '<img src="x.png" alt="a digit">', "`![](x.png)`"])
def test_images_with_alt(good: str) -> None:
    assert check_notebook_figures(book(md(good))) == []


@pytest.mark.parametrize("bad", ["![](x.png)", "![ ](x.png)", '<img src="x.png">', '<img alt="" src="x.png">'])
def test_images_without_alt(bad: str, repo: Path) -> None:
    assert "has no alt text" in told(check_notebook_figures(book(md(bad))))
    if bad.startswith("<"):
        assert "has no alt text" in told(check_notebook_figures(book(code("show()", shown(text_html=bad)))))
    (repo / "README.md").write_text(bad, encoding="utf-8")
    assert "README.md: the image" in told(check_figures(repo))


# Saved outputs


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ({"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}, "is an error"),
        (printed("Traceback (most recent call last):\n"), "a traceback"),
        (printed("UserWarning: slow\n"), "a warning"),
        (printed("x.py:3: FutureWarning: old\n"), "a warning"),
        (printed("progress", "stderr"), "standard error"),
        (printed("in /" + "home/ann/data\n"), "an absolute path"),
        (printed("in /" + "tmp\n"), "an absolute path"),
        (printed("in /usr/lib/python\n"), "an absolute path"),
        (shown(text_plain="Path('/" + "root/.fastai')"), "an absolute path"),
        (shown(text_plain="PosixPath('/data')"), "an absolute path"),
        (printed("in D:\\data\\mnist\n"), "an absolute path"),
        (printed("at file:///x\n"), "an absolute path"),
        (printed("at file:///" + "home/joe/x\n"), "an absolute path"),
        (printed("at //" + "root/x\n"), "an absolute path"),
        (printed("in /var/" + "folders/ab/T\n"), "an absolute path"),
        (printed("in /op" + "t/x\n"), "an absolute path"),
        (printed("in //op" + "t/x\n"), "an absolute path"),
        (printed("in /sr" + "v/x\n"), "an absolute path"),
        (printed("in /mn" + "t/x\n"), "an absolute path"),
        (shown(text_plain="WindowsPath('C:/" + "Users/x')"), "an absolute path"),
        (printed("in C:\\" + "Users\\x\n"), "an absolute path"),
        (shown(text_plain="<function f at 0x7f3b2c1d>"), "a memory address"),
        (shown(text_html="<p>at 0x7f3b2c1d</p>"), "a memory address"),
        (shown(**{"application_vnd.jupyter.widget-view+json": "{}"}), "a widget"),
        (printed("\x1b[31mred\x1b[0m\n"), "control characters"),
        (printed("10%\r20%\n"), "control characters"),
    ],
)
def test_outputs_rejected(output: Cells, what: str) -> None:
    complaint = told(check_notebook_outputs(book(code("f()", output))))
    assert what in complaint and "cell cell0" in complaint


def test_outputs_accepted() -> None:
    text = printed("magic 0x00000803, train  valid\r\ntrain/3: 6131, 1/2, and/or, 0x0803, 3 / 4, https://example.org/home/x\n")
    assert check_notebook_outputs(book(code("f()", text, shown(text_plain="Path('train/3')", image_png="aaaa")))) == []
    cells = [code("x.shape", shown(text_plain="(3,)")), code("x;"), code("f(x)"), code("#| eval: false\nx"), code("x = 1")]
    assert check_notebook_outputs(book(*cells)) == []


def test_cell_that_was_not_run_is_rejected() -> None:
    assert "it ends in a value and has no output" in told(check_notebook_outputs(book(code("x = 1\nx.shape"))))


def test_name_of_the_machine_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "anns-laptop.local")
    assert "the name of this machine" in told(check_notebook_outputs(book(code("f()", printed("made on anns-laptop\n")))))
    monkeypatch.setattr("platform.node", lambda: "mac")
    assert check_notebook_outputs(book(code("f()", printed("made on mac\n")))) == []


def test_widget_state_is_rejected(repo: Path) -> None:
    path = write_notebook(repo, "00_one.ipynb", *title())
    assert check_outputs(repo) == []
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('{\n  "kernelspec"', '{\n  "widgets": {},\n  "kernelspec"'), encoding="utf-8")
    assert "state of widgets" in told(check_outputs(repo))


# The library


MODULE = '''"""A module."""
# AUTOGENERATED! DO NOT EDIT!
# %% auto 0
__all__ = ["LIMIT", "area", "Square"]
LIMIT = 3
def area(side: float, *rest: float, unit: str = "m", **more: int) -> float:
    "The area."
    return side * side
def _helper(x): return x
class Square:
    "A square."
    def __init__(self, side: float):
        self.side = side
    def area(self) -> float:
        "Its area."
        return self.side ** 2
    def _hidden(self): return 1
'''


def test_library_accepted(repo: Path) -> None:
    assert check_module("m.py", MODULE) == []
    (repo / "small").mkdir()
    (repo / "small" / "m.py").write_text(MODULE, encoding="utf-8")
    assert check_library(repo) == []


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("side: float, *rest", "side, *rest", "area has no type hint for side"),
        ("*rest: float", "*rest", "area has no type hint for rest"),
        ('unit: str = "m"', 'unit="m"', "area has no type hint for unit"),
        ("**more: int", "**more", "area has no type hint for more"),
        (") -> float:\n    \"The", "):\n    \"The", "area has no type hint for return"),
        ('    "The area."\n', "", "area has no docstring"),
        ('    "A square."\n', "", "class Square has no docstring"),
        ('        "Its area."\n', "", "Square.area has no docstring"),
        ("def area(self) -> float", "def area(self)", "Square.area has no type hint for return"),
        ("self, side: float", "self, side", "Square.__init__ has no type hint for side"),
        ('__all__ = ["LIMIT", "area", "Square"]', "__all__ = []", "nothing is public"),
        ("LIMIT = 3", "from math import *", "`from math import *`"),
        ("LIMIT = 3", "x = 1\n" * 151, "more than 150"),
        ("LIMIT = 3", "DEVICE = torch.device('cpu')", "torch.device() runs when the module is imported"),
        ("LIMIT = 3", "torch.manual_seed(1)", "torch.manual_seed() runs"),
        ("LIMIT = 3", "rng = np.random.default_rng(1)", "np.random.default_rng() runs"),
        ("LIMIT = 3", "DIGITS = load_digits()", "load_digits() runs"),
        ("LIMIT = 3", "def f(d=torch.device('cpu')): pass", "torch.device() runs"),
        ("return side * side", "global LIMIT; LIMIT = 4; return side", "`global LIMIT`"),
    ],
)
def test_library_rejected(old: str, new: str, what: str) -> None:
    assert old in MODULE
    assert what in told(check_module("m.py", MODULE.replace(old, new)))


def test_library_without_modules_is_rejected(repo: Path) -> None:
    assert "no module" in told(check_library(repo))


# Commands


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """A parser like that of `climb`."""
    made = argparse.ArgumentParser(prog="climb")
    made.add_argument("--device", choices=["auto", "cpu"])
    made.add_argument("--epochs", type=int)
    made.add_argument("--list", action="store_true")
    return made


@pytest.fixture
def shop(repo: Path) -> Path:
    """A repository with a Makefile, a setup.py and a module to run."""
    (repo / "Makefile").write_text("PY := python\n.PHONY: test\nhelp lab climb:\n\ttrue\ntest: help ## all\n\ttrue\n", encoding="utf-8")
    (repo / "setup.py").write_text('setup(entry_points={"console_scripts": [f"climb={lib}.climb:main"]})', encoding="utf-8")
    (repo / "small").mkdir()
    (repo / "small" / "climb.py").write_text("", encoding="utf-8")
    (repo / "CONTRIBUTING.md").write_text("", encoding="utf-8")
    return repo


GOOD = """Clone it, then `make lab`; see `climb --device` and `nbdev_test`.

```sh
git clone https://example.org/x && cd x
make test ARGS="-k climb"   # a comment
PIXELS=1 climb --device cpu \\
  --epochs 3
climb --help | cat
python -m small.climb --list
python -m pip install -e '.[dev]'; nbdev_clean
```

```console
$ make help
this is output, not a command
```

```python
nonsense()
```
"""


def test_commands_accepted(shop: Path, parser: argparse.ArgumentParser) -> None:
    commands = list(shown_commands(GOOD))
    assert len(commands) == 13
    assert [check_command(words, complete, shop, parser) for words, complete in commands] == [""] * 13
    (shop / "README.md").write_text(GOOD, encoding="utf-8")
    assert check_commands(shop) == []


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("```sh\nmake fly\n```", "no target fly"),
        ("Type `make fly`.", "no target fly"),
        ("```bash\nclimb --speed 3\n```", "no flag --speed"),
        ("```bash\nclimb --device moon\n```", "invalid choice"),
        ("```bash\nclimb --epochs many\n```", "invalid int"),
        ("Use `climb --speed`.", "no flag --speed"),
        ("```sh\nmake climb ARGS='--list --speed'\n```", "no flag --speed"),
        ("```sh\npython -m small.climb --speed\n```", "no flag --speed"),
        ("```sh\npython -m small.fly\n```", "no module small.fly"),
        ("Use `python -m no_such_module`.", "no module no_such_module"),
        ("```sh\npython fly.py\n```", "no file fly.py"),
        ("```sh\ncd x && frobnicate\n```", "called frobnicate"),
        ("```console\n$ frobnicate\n```", "called frobnicate"),
        ("Use `nbdev_fly`.", "nbdev_fly is not installed"),
    ],
)
def test_commands_rejected(page: str, what: str, shop: Path, parser: argparse.ArgumentParser) -> None:
    wrong = [w for words, complete in shown_commands(page) if (w := check_command(words, complete, shop, parser))]
    assert len(wrong) == 1 and what in wrong[0]


def test_command_needs_its_entry_point(shop: Path, parser: argparse.ArgumentParser) -> None:
    (shop / "setup.py").write_text("setup()", encoding="utf-8")
    assert check_command(["climb"], True, shop, parser) == "setup.py installs no command `climb`"
    (shop / "README.md").write_text("```sh\nclimb\n```", encoding="utf-8")
    assert "README.md: `climb` does not work" in told(check_commands(shop))


def test_commands_of_notebooks_are_checked(shop: Path) -> None:
    (shop / "README.md").write_text("", encoding="utf-8")
    write_notebook(shop, "index.ipynb", md("Use `make test`.\n\n```bash\nmake test\n```"))
    write_notebook(shop, "00_one.ipynb", *title(), md("```sh\nmake lab\n```"))
    assert check_commands(shop) == []
    write_notebook(shop, "index.ipynb", md("Fine.\n\n```bash\nmake fly\n```"))
    assert "nbs/index.ipynb, cell cell0: `make fly` does not work" in told(check_commands(shop))
    write_notebook(shop, "index.ipynb", md("Use `make fly`."))
    assert "nbs/index.ipynb, cell cell0" in told(check_commands(shop))
    write_notebook(shop, "index.ipynb", md("Fine."))
    write_notebook(shop, "00_one.ipynb", *title(), md("```sh\nfrobnicate\n```"))
    assert "nbs/00_one.ipynb, cell cell1: `frobnicate` does not work" in told(check_commands(shop))


def test_climb_has_a_parser() -> None:
    assert climb_parser(ROOT) is not None


# Links and addresses


def test_slugs() -> None:
    assert github_slug("2. What is a `tensor`?") == "2-what-is-a-tensor"
    assert quarto_slug("2. What is a `tensor`?") == "what-is-a-tensor"
    assert github_slug("L1, L2 & [more](x.md)") == "l1-l2--more"


@pytest.fixture
def linked(repo: Path) -> Path:
    """A repository of one page and two notebooks."""
    write_notebook(repo, "00_one.ipynb", *title(), md("## 1. First steps\n\n[next](01_two.ipynb#the-end) [here](#first-steps) [own](#mark)"))
    write_notebook(repo, "01_two.ipynb", *title("Two"), md("## The end\n\n::: {#mark}\n:::\n"))
    return repo


@pytest.mark.parametrize(
    "good",
    [
        "[a](nbs/00_one.ipynb) [b](nbs/01_two.ipynb#the-end) [c](#top-2) [d](settings.ini) <a href='nbs/'>e</a>\n\n# Top\n# Top 2",
        "[a](https://example.org/x) [b](mailto:x@example.org) `[c](gone.md)`\n\n```\n[d](gone.md)\n```",
        "[a][b]\n\n[b]: settings.ini",
    ],
)
def test_links_accepted(good: str, linked: Path) -> None:
    notebook = linked / "nbs" / "00_one.ipynb"
    notebook.write_text(notebook.read_text(encoding="utf-8").replace(" [own](#mark)", ""), encoding="utf-8")
    (linked / "README.md").write_text(good, encoding="utf-8")
    assert check_links(linked) == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("[a](gone.md)", "there is no gone.md"),
        ("![a](gone.png)", "there is no gone.png"),
        ('<img alt="a" src="gone.png">', "there is no gone.png"),
        ("[a](nbs/00_one.html)", "there is no nbs/00_one.html"),
        ("[a](nbs/01_two.ipynb#start)", "no heading with the anchor #start"),
        ("# Top\n\n[a](#bottom)", "no heading with the anchor #bottom"),
        ("[a][b]\n\n[b]: gone.md", "there is no gone.md"),
        ("[a](/settings.ini)", "begins with a slash"),
        ("[a](../..)", "out of the repository"),
    ],
)
def test_links_rejected(bad: str, why: str, linked: Path) -> None:
    (linked / "README.md").write_text(bad, encoding="utf-8")
    broken = [c for c in check_links(linked) if c.startswith("README.md")]
    assert why in told(broken)


def test_link_of_a_notebook_is_rejected(linked: Path) -> None:
    assert "nbs/00_one.ipynb, cell cell1: the link #mark leads nowhere" in told(check_links(linked))


@pytest.mark.parametrize(
    "good",
    [
        "https://github.com/small-owner/small_course.git",
        "https://github.com/small-owner/small_course/blob/main/nbs/00_one.ipynb",
        "https://colab.research.google.com/github/small-owner/small_course/blob/main/nbs/00_one.ipynb",
        "https://small-owner.github.io/small_course/00_one.html and https://small-owner.github.io",
        "https://github.com/fastai/fastbook/blob/master/04.ipynb https://fastai.github.io/fastcore",
    ],
)
def test_home_accepted(good: str, linked: Path) -> None:
    (linked / "README.md").write_text(good, encoding="utf-8")
    assert check_home(linked) == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("https://github.com/someone/small_course", "settings.ini says small-owner/small_course"),
        ("git@github.com:someone/small_course.git", "settings.ini says"),
        ("https://github.com/small-owner/small-course", "settings.ini says"),
        ("https://github.com/small-owner/other", "settings.ini says"),
        ("https://github.com/small-owner/small_course/blob/master/nbs/00_one.ipynb", "the branch is main"),
        ("https://colab.research.google.com/github/someone/small_course/blob/main/nbs/00_one.ipynb", "settings.ini says"),
        ("https://colab.research.google.com/github/small-owner/small_course/blob/main/nbs/09_gone.ipynb", "there is no nbs/09_gone.ipynb"),
        ("https://raw.githubusercontent.com/small-owner/small_course/main/gone.png", "there is no gone.png"),
        ("https://github.com/small-owner/small_course/actions/workflows/gone.yml/badge.svg", "no workflow gone.yml"),
        ("https://someone.github.io/small_course/", "settings.ini says small-owner.github.io/small_course"),
        ("https://small-owner.github.io/small_course/gone.html", "no notebook becomes gone.html"),
    ],
)
def test_home_rejected(bad: str, why: str, linked: Path) -> None:
    (linked / "README.md").write_text(bad, encoding="utf-8")
    assert why in told(check_home(linked))


# Spelling and style


def test_spelling(repo: Path) -> None:
    wrong = "rec" + "ieve"
    write_notebook(repo, "00_one.ipynb", *title(), md("You receive a picture ![x](data:image/png;base64,ba" + wrong + "aa)"))
    (repo / "README.md").write_text("Fine words.", encoding="utf-8")
    assert check_spelling(repo) == []
    (repo / "README.md").write_text(f"You {wrong} it.", encoding="utf-8")
    assert "README.md, line 1: spelling" in told(check_spelling(repo))
    (repo / "tools").mkdir()
    (repo / "tools" / "spelling.txt").write_text(wrong + "\n", encoding="utf-8")
    assert check_spelling(repo) == []


def test_spelling_of_notebooks_and_modules(repo: Path) -> None:
    wrong = "rec" + "ieve"
    write_notebook(repo, "00_one.ipynb", *title(), md(f"You {wrong} it."))
    (repo / "one.py").write_text(f'"""We {wrong} it."""\n', encoding="utf-8")
    page, cell = sorted(check_spelling(repo), reverse=True)
    assert "one.py, line 1" in page and "nbs/00_one.ipynb, cell cell1, line 1" in cell


def test_lint(repo: Path) -> None:
    (repo / "one.py").write_text("import os\n\nprint(os.name)\n", encoding="utf-8")
    assert check_lint(repo) == []
    (repo / "one.py").write_text("import os\n", encoding="utf-8")
    assert "one.py:1:8: F401" in told(check_lint(repo))


# Anatomy


def chapter() -> list[Cells]:
    """The cells of a chapter with everything a chapter needs."""
    badge = "[![Open in Colab](b.svg)](https://colab.research.google.com/github/small-owner/small_course/blob/main/nbs/00_one.ipynb)"
    box = "\n\n**Stop and predict.** What?"
    lessons = [cell for i in range(8) for cell in (md(f"Claim {i}." + box * (i < 3)), code(f"#| hide\ntest_eq({i}, {i})"))]
    ending = [
        md("## What to remember\n\nAll."),
        md("## Quiz\n\n1. Why?\n\n<details><summary>Answer</summary>So.</details>"),
        md("## Exercises\n\nDo it."),
        code("#| code-fold: true\nassert done"),
        md("## Further reading\n\nA book."),
    ]
    return [*title(), md(badge), *lessons, *ending]


def chapter_complaints(cells: list[Cells]) -> list[str]:
    return check_notebook_anatomy(book(*cells, name="nbs/00_one.ipynb"))


def without(cells: list[Cells], text: str) -> list[Cells]:
    return [{**c, "source": c["source"].replace(text, "")} for c in cells]


def test_anatomy_accepted() -> None:
    assert chapter_complaints(chapter()) == []
    assert check_notebook_anatomy(book(*title(module="one"), code("#| exports\n" + "x = 1\n" * 19))) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("> What One is about.", "first cell is not an H1"),
        ("**Stop and predict.**", "0 boxes `Stop and predict`"),
        ("What to remember", "no section `What to remember`"),
        ("Quiz", "no section `Quiz`"),
        ("Exercises", "no section `Exercises`"),
        ("Further reading", "no section `Further reading`"),
        ("<details>", "quiz has no folded answers"),
        ("#| code-fold: true\n", "no folded solution"),
        ("https://colab.research.google.com/github/", "no way into Colab"),
        ("test_eq", "1 assertions, fewer than 8"),
    ],
)
def test_anatomy_rejected(text: str, what: str) -> None:
    assert what in told(chapter_complaints(without(chapter(), text)))


def test_sections_of_one_cell_are_found() -> None:
    both = "## What to remember\n\nAll.\n\n## Quiz"
    cells = [{**c, "source": c["source"].replace("## Quiz", both)} for c in chapter() if "What to" not in c["source"]]
    assert chapter_complaints(cells) == []


def test_first_cell_holds_nothing_else() -> None:
    assert "first cell" in told(check_notebook_anatomy(book(md("# One\n\n> What.\n\nAnd more."), code("#| default_exp one"))))


def test_cells_are_short() -> None:
    assert "21 lines of code" in told(check_notebook_anatomy(book(*[code("x = 1")] * 20, code("x = 1\n" * 21))))
    assert chapter_complaints([*chapter(), code("x = 1\n\n" * 9)]) == []
    assert chapter_complaints([*chapter(), code("x = 1\n" * 10)]) == []
    assert "2 of 11 code cells have 10 lines or more" in told(chapter_complaints([*chapter(), *[md("Why.")] * 2, *[code("x = 1\n" * 10)] * 2]))


@pytest.mark.parametrize("bad", ["x = 1  # one", "# one\nx = 1", "!ls\n# one", "def f(\n# one"])
def test_comments_are_rejected(bad: str) -> None:
    assert "a comment in a code cell" in told(check_notebook_anatomy(book(code(bad))))


@pytest.mark.parametrize("good", ["#| hide\nx = '# one'", '"""# one"""', "!ls #1\n%time x = 1", "untar_data??"])
def test_what_is_no_comment(good: str) -> None:
    assert check_notebook_anatomy(book(code(good))) == []


def test_chapter_is_half_prose() -> None:
    cells = [*chapter(), *[code("x = 1")] * 20]
    assert "of its cells are prose, less than 40%" in told(chapter_complaints(cells))


INSTALLING = """#| hide
import importlib.util
if importlib.util.find_spec("small") is None:
    %pip install -q git+https://github.com/small-owner/small_course"""


@pytest.fixture
def colab(repo: Path) -> Path:
    """A repository whose README opens nbs/one.ipynb in Colab, and not nbs/two.ipynb."""
    opened = "https://colab.research.google.com/github/small-owner/small_course/blob/main/nbs/one.ipynb"
    (repo / "README.md").write_text(f"[![Open](b.svg)]({opened}) [two](nbs/two.ipynb)", encoding="utf-8")
    write_notebook(repo, "two.ipynb", *title(), code("from small.one import x"))
    return repo


def test_notebook_for_colab_installs_the_library(colab: Path) -> None:
    write_notebook(colab, "one.ipynb", *title(), code(INSTALLING), code("from small.one import x"))
    assert check_anatomy(colab) == []
    write_notebook(colab, "one.ipynb", *title(), code("import smaller"), md("import small"))
    assert check_anatomy(colab) == [], "what does not import the library need not install it"


@pytest.mark.parametrize(
    "cells",
    [
        [code("from small.one import x")],
        [code("def f():\n    import small")],
        [code("from small.one import x"), code(INSTALLING)],
        [code(INSTALLING.replace("#| hide\n", "")), code("import small")],
        [code(INSTALLING.replace("small-owner", "someone")), code("import small")],
        [code(INSTALLING.replace("small_course", "small_course_2")), code("import small")],
        [code(INSTALLING.replace('("small")', '("torch")')), code("import small")],
        [code(INSTALLING.replace("    %pip", "%pip")), code("import small")],
        [md(INSTALLING), code("import small")],
    ],
)
def test_notebook_for_colab_without_the_library_is_rejected(cells: list[Cells], colab: Path) -> None:
    write_notebook(colab, "one.ipynb", *title(), *cells)
    assert "nbs/one.ipynb: README.md opens it in Colab, where small is missing" in told(check_anatomy(colab))


# Requirements


@pytest.fixture
def needing(repo: Path) -> Path:
    """A repository that asks for numpy at run time and for pytest and ruff in development, with a library, tests and a setup.py."""
    (repo / "settings.ini").write_text(
        (repo / "settings.ini").read_text(encoding="utf-8").replace("requirements =", "requirements = numpy>=1\ndev_requirements = pytest>=8 ruff"),
        encoding="utf-8",
    )
    write_notebook(repo, "00_one.ipynb", *title(), code("%time import numpy"), code("!ls\nimport pytest, numpy as np\nfrom small.one import x"))
    for name, text in {
        "small/one.py": "from __future__ import annotations\nimport os.path\ndef f():\n    from numpy.linalg import norm\nfrom . import two\n",
        "tests/help.py": "import pytest\n",
        "tests/test_one.py": "import help\nfrom small import one\nfrom tests.help import x\nrun([sys.executable, '-m', 'ruff', 'check'])\n",
        "setup.py": "from configparser import ConfigParser\n",
    }.items():
        (repo / name).parent.mkdir(exist_ok=True)
        (repo / name).write_text(text, encoding="utf-8")
    return repo


def test_requirements_accepted(needing: Path) -> None:
    assert check_requirements(needing) == []


@pytest.mark.parametrize(
    ("name", "line", "what"),
    [
        ("small/one.py", "import pytest", "pytest is imported, and settings.ini does not ask for it; add pytest to requirements."),
        ("small/one.py", "def g():\n    import yaml.nodes", "add pyyaml to requirements."),
        ("small/one.py", "from tqdm.auto import tqdm", "add tqdm to requirements."),
        ("small/one.py", "import no_such_module", "no installed package brings it"),
        ("small/one.py", "import (", "its imports cannot be read"),
        ("tests/test_one.py", "try:\n    import yaml\nexcept ImportError:\n    pass", "add pyyaml to dev_requirements."),
        ("tests/test_one.py", "run([python, '-m', 'codespell_lib', '.'])", "add codespell to dev_requirements."),
        ("setup.py", "from setuptools import setup", "add setuptools to dev_requirements."),
        ("bench/speed.py", "import tqdm", "add tqdm to dev_requirements."),
        ("tools/one.py", "import tqdm", "add tqdm to dev_requirements."),
    ],
)
def test_requirements_rejected(name: str, line: str, what: str, needing: Path) -> None:
    path = needing / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + line + "\n", encoding="utf-8")
    complaint = told(check_requirements(needing))
    assert complaint.startswith(f"{name}: ") and what in complaint


def test_requirements_of_notebooks_are_rejected(needing: Path) -> None:
    write_notebook(needing, "00_one.ipynb", *title(), code("!ls\n%matplotlib inline\nimport yaml"))
    assert told(check_requirements(needing)).startswith("nbs/00_one.ipynb, cell cell1: yaml is imported")


def test_what_counts_as_an_import() -> None:
    assert imported("import a.b as c, d\nfrom e.f import g\nfrom . import h\nx = ['-m', 'i.j', '-c']\ny = ('-m', '-c'); z = '-m k'") == set("adei")


# Traces of a machine


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("see /" + "home/ann/x", "a machine's path"),
        ("see /" + "work/x", "a machine's path"),
        ("path = '/" + "root'", "a machine's path"),
        ("in /" + "tmp.", ""),
        ("in /" + "tmp/x", "a machine's path"),
        ("in C:" + "\\Users\\ann", "a machine's path"),
        ("in C:/" + "Users/ann", "a machine's path"),
        ("at file:///" + "home/joe", "a machine's path"),
        ("at file:///C:/" + "Users/ann", "a machine's path"),
        ("at //" + "root/x", "a machine's path"),
        ("in /var/" + "folders/ab/T", "a machine's path"),
        ("in /op" + "t/x", "a machine's path"),
        ("in /sr" + "v/x", "a machine's path"),
        ("in /mn" + "t/x", "a machine's path"),
        ("https://home/x and/opt/x ./srv/x ${HOME}/mnt/x in /var and /path/to/opt", ""),
        ("from https://py" + "pi.org/simple", "a package registry"),
        ("from download.py" + "torch.org", "a package registry"),
        ("done \N{PARTY POPPER}", "an emoji"),
        ("done \N{WHITE HEAVY CHECK MARK}", "an emoji"),
        ("https://example.org/home/x ~/work ./tmp/x nbs/work/y a/b \N{RIGHTWARDS ARROW} \N{MULTIPLICATION SIGN}", ""),
    ],
)
def test_traces(text: str, what: str, repo: Path) -> None:
    for name in ("README.md", "x.py", ".ci/run"):
        complaints = check_text_traces(name, text)
        assert what in told(complaints) if what else complaints == []
    write_notebook(repo, "00_one.ipynb", md(text))
    complaints = check_traces(repo)
    assert what in told(complaints) if what else complaints == []


def test_pictures_are_not_searched(repo: Path) -> None:
    write_notebook(repo, "00_one.ipynb", *title(), code("plot()", shown(image_png="a/" + "tmp/b " + "/" + "tmp/x")))
    assert check_traces(repo) == []


# Workflows


WORKFLOW = f"""name: test
on: [push]
permissions:
  contents: read
jobs:
  test:
    runs-on: ubuntu-latest
    timeout-minutes: 10
    steps:
      - uses: actions/checkout@{'a' * 40} # v6
      - run: make test
"""


@pytest.fixture
def workflow(repo: Path) -> Path:
    """The file of a good workflow."""
    path = repo / ".github" / "workflows" / "test.yml"
    path.parent.mkdir(parents=True)
    path.write_text(WORKFLOW, encoding="utf-8")
    return path


def test_workflows_accepted(workflow: Path, repo: Path) -> None:
    assert check_workflows(repo) == []


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("a" * 40, "v6", "actions/checkout@v6 is not pinned"),
        ("a" * 40, "a" * 7, "is not pinned"),
        ("permissions:\n  contents: read\n", "", "no permissions at the top level"),
        ("contents: read", "contents: write", "right to write"),
        ("    timeout-minutes: 10\n", "", "the job test has no timeout-minutes"),
        ("name: test", "name: [", "correct its YAML"),
        ("    timeout-minutes: 10\n", "    timeout-minutes: 10\n    permissions: write-all\n", "the job test may write everything"),
        ("make test", "echo ${{ github.event.issue.title }}", "writes ${{ github.event.issue.title }}, which a stranger chooses"),
        ("make test", "git checkout ${{ github.head_ref }}", "which a stranger chooses"),
        ("make test", "echo ${{ format('{0}', github['event'].comment.body) }}", "which a stranger chooses"),
        ("run: make test", "run: |\n          make\n          echo '${{github.event.head_commit.message}}'", "which a stranger chooses"),
        (" # v6", "\n        with:\n          script: say(`${{ github.event.issue.body }}`)", "which a stranger chooses"),
    ],
)
def test_workflows_rejected(old: str, new: str, what: str) -> None:
    assert old in WORKFLOW
    assert what in told(check_workflow("test.yml", WORKFLOW.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("make test", "echo ${{ github.event_name }} ${{ github.ref }} ${{ matrix.github }}"),
        ("run: make test", 'run: echo "$TITLE"\n        env:\n          TITLE: ${{ github.event.issue.title }}'),
        ("    timeout-minutes: 10\n", "    timeout-minutes: 10\n    if: github.event.issue.title\n    permissions:\n      pages: write\n"),
    ],
)
def test_careful_workflows_are_accepted(old: str, new: str) -> None:
    assert old in WORKFLOW
    assert check_workflow("test.yml", WORKFLOW.replace(old, new)) == []


def test_schemas(workflow: Path, repo: Path) -> None:
    workflow.write_text(WORKFLOW.replace("      - run: make test", "      - ruin: make test"), encoding="utf-8")
    (repo / ".github" / "dependabot.yml").write_text("version: 3\n", encoding="utf-8")
    complaints = check_workflows(repo)
    assert any("test.yml" in c and "follow the schema of github-workflows" in c for c in complaints)
    assert any("dependabot.yml" in c and "follow the schema of dependabot" in c for c in complaints)


def test_missing_workflows_are_rejected(repo: Path) -> None:
    assert "no workflow" in told(check_workflows(repo))


# The table of README.md


def test_table(repo: Path) -> None:
    write_notebook(repo, "00_one.ipynb", *title())
    readme = repo / "README.md"
    readme.write_text("# Small\n", encoding="utf-8")
    assert "needs one line" in told(check_table(repo))
    readme.write_text("# Small\n<!-- course:begin -->\nold\n<!-- course:end -->\n", encoding="utf-8")
    assert "out of step; run `python -m tools.readme`" in told(check_table(repo))


# nbdev_test


@pytest.mark.notebook
def test_nbdev_test_rejected(exported: Path) -> None:
    assert check_nbdev_test(exported) == []
    write_notebook(exported, "01_two.ipynb", *title(), code("assert 1 == 2, 'one is not two'"))
    assert "one is not two" in told(check_nbdev_test(exported))
    for path in (exported / "nbs").glob("*.ipynb"):
        path.unlink()
    assert "No files were eligible" in told(check_nbdev_test(exported))


# The list of guards in CONTRIBUTING.md


def unlisted(page: str) -> set[str]:
    """The guards that the page's table does not name, and the names in it that are no guard."""
    table = page.partition("| guard | what it wants |\n")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    return named ^ {*GUARDS, *SLOW}


def test_contributing_lists_every_guard() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert unlisted(page) == set()
    assert unlisted(page.replace("`lint`, ", "").replace("| `numbers` |", "| `figures_` |")) == {"lint", "numbers", "figures_"}


# The command line


def test_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.guards", "no_such_guard"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no guard is called no_such_guard" in done.stderr
