"""The repository around the notebooks: Makefile, package, CI, licences, citation, the site's settings, the picture of the ladder."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import yaml

from tools.course import ROOT, files, notebook_paths, settings
from tools.ladder import OUT, RUNGS, write

MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(os.name == "nt" or MAKE is None, reason="needs make and a POSIX shell")
TARGETS = ["help", "climb", "test", "lab", "notebooks", "docs", "export", "clean"]


def run(command: list, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Run a command in a folder, without what an outer make or an earlier test left in the environment."""
    inherited = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "ARGS"}}
    return subprocess.run([str(c) for c in command], cwd=folder, env=inherited | env, capture_output=True, text=True, encoding="utf-8", timeout=600)


def script(path: Path, text: str) -> Path:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def undocumented(makefile: str) -> list[str]:
    """The targets people call that `make help` cannot describe."""
    public = re.findall(r"^([a-z]+):", makefile, re.M)
    return [name for name in public if not re.search(rf"^{name}:.*## \S", makefile, re.M)]


# ---- Makefile


@needs_make
def test_make_alone_lists_every_target_with_a_line() -> None:
    shown = run([MAKE], ROOT)
    assert shown.returncode == 0, shown.stderr
    assert re.findall(r"^  make (\w+) +\S.*$", shown.stdout, re.M) == TARGETS
    assert run([MAKE, "help"], ROOT).stdout == shown.stdout


def test_every_target_has_a_help_line_and_a_missing_one_is_found() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert undocumented(makefile) == []
    assert undocumented(makefile.replace(" ## run every check there is", "")) == ["test"]


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_make_can_say_what_it_would_do(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "settings.ini", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    done = run([MAKE, "-n", target], tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Makefile", "settings.ini", "setup.py"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with spaces in its path, its Makefile, and a `python3.13` that writes down what it is asked instead of doing it."""
    folder = tmp_path / "my courses" / "pixels to resnet"
    folder.mkdir(parents=True)
    for name in ("Makefile", "settings.ini", "setup.py"):
        shutil.copy(ROOT / name, folder)
    script(
        tmp_path / "bin" / "python3.13",
        """case "$*" in
    *"import venv"*) test ! -e "$NO_VENV" ;;
    -c*) exit 0 ;;
    --version) echo Python 3.13.0 ;;
    "-I -c"*) test ! -e "$NO_PIP" ;;
    "-m venv"*) echo "venv" >> "$LOG"; mkdir -p .venv/bin; cp "$0" .venv/bin/python
        printf '#!/bin/sh\\necho "climb $*" >> "$LOG"\\n' > .venv/bin/climb; chmod +x .venv/bin/climb ;;
    *) echo "$*" >> "$LOG"; if test -e "$BROKEN"; then echo "ERROR: the registry is away" >&2; exit 1; fi ;;
esac""",
    )
    return folder


def make(checkout: Path, *words: str, **env: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run make in the fixture's folder; its result, and what its Python and its `climb` were asked to do."""
    top = checkout.parents[1]
    log = top / "log"
    log.write_text("", encoding="utf-8")
    known = {"PATH": f"{top / 'bin'}{os.pathsep}{os.environ['PATH']}", "LOG": log}
    known |= {name.upper(): top / name for name in ("broken", "no_venv", "no_pip")}
    done = run([MAKE, *words], checkout, **{name: str(value) for name, value in (known | env).items()})
    return done, log.read_text(encoding="utf-8").splitlines()


@needs_make
def test_make_installs_once_and_a_second_run_starts_at_once(checkout: Path) -> None:
    done, asked = make(checkout, "climb", "ARGS=--list")
    assert done.returncode == 0, done.stderr
    assert "about 6 GB" in done.stdout and "Python 3.13.0" in done.stdout
    assert asked[0] == "venv" and asked[-2].endswith("-e .[dev]") and asked[-1] == "climb --out climb_out --list"
    done, asked = make(checkout, "test", "ARGS=-k one")
    assert (done.stdout, asked) == ("", ["-m pytest -n 2 --dist worksteal -k one"])


@needs_make
def test_an_install_that_failed_is_taken_up_again(checkout: Path) -> None:
    broken = checkout.parents[1] / "broken"
    broken.touch()
    done, asked = make(checkout, "climb")
    assert done.returncode != 0 and "the registry is away" in done.stderr and "takes it up again" in done.stderr
    assert not (checkout / ".venv" / ".installed").exists() and "climb --out climb_out " not in asked
    broken.unlink()
    done, asked = make(checkout, "climb")
    assert done.returncode == 0, done.stderr
    assert "venv" not in asked and asked[-1].startswith("climb")


@needs_make
def test_new_requirements_are_installed_and_a_moved_folder_starts_anew(checkout: Path) -> None:
    make(checkout, "climb")
    later = (checkout / ".venv" / ".installed").stat().st_mtime + 2
    os.utime(checkout / "settings.ini", (later, later))
    _, asked = make(checkout, "climb")
    assert "venv" not in asked and any(line.endswith("-e .[dev]") for line in asked)
    os.utime(checkout / "settings.ini", (1, 1))
    moved = checkout.rename(checkout.with_name("moved"))
    done, asked = make(moved, "climb")
    assert "was moved" in done.stdout and asked[0] == "venv"


@needs_make
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_python_that_is_gone_is_noticed(checkout: Path, how: str) -> None:
    make(checkout, "climb")
    python, no_pip = checkout / ".venv" / "bin" / "python", checkout.parents[1] / "no_pip"
    if how == "removed":
        python.unlink()
        python.symlink_to(checkout / "gone")
    else:
        no_pip.touch()
    (checkout / ".venv" / "old").touch()
    done, asked = make(checkout, "climb", "-n")
    assert done.returncode == 0 and asked == [] and (checkout / ".venv" / "old").exists(), "saying what would be done changes nothing"
    done, asked = make(checkout, "climb")
    assert done.returncode == 0, done.stderr
    assert "is gone or was replaced" in done.stdout and asked[0] == "venv" and asked[-1].startswith("climb")
    assert not (checkout / ".venv" / "old").exists()
    no_pip.unlink(missing_ok=True)
    _, asked = make(checkout, "climb")
    assert len(asked) == 1 and asked[0].startswith("climb")


@needs_make
def test_missing_python_or_venv_is_one_sentence(checkout: Path) -> None:
    (checkout.parents[1] / "no_venv").touch()
    done, _ = make(checkout, "climb", "PYTHON=python3.13")
    assert done.returncode != 0 and "python3-venv" in done.stderr.splitlines()[0]
    bare = checkout.parents[1] / "bare"
    bare.mkdir()
    for name in ("sh", "rm", "test", "date", "cat"):
        (bare / name).symlink_to(shutil.which(name))
    done, asked = make(checkout, "climb", PATH=str(bare))
    assert done.returncode != 0 and done.stderr.startswith("Python 3.10 or newer was not found") and asked == []


@needs_make
def test_an_older_python_is_passed_over(checkout: Path) -> None:
    script(checkout.parents[1] / "bin" / "python3.12", 'exec "$(dirname "$0")/python3.13" "$@"')
    script(checkout.parents[1] / "bin" / "python3.13", "exit 1")
    done, _ = make(checkout, "climb", "PYTHON=python3.13")
    assert done.returncode != 0 and "(tried: python3.13)" in done.stderr


@needs_make
def test_docs_without_quarto_say_what_to_install(checkout: Path) -> None:
    bare = checkout.parents[1] / "bin"
    done, asked = make(checkout, "docs", PATH=str(bare))
    said = done.stderr.splitlines()[0]
    assert done.returncode != 0 and asked == []
    assert "quarto" in said and "proc_nbs" in said and re.search(r"version 1\.\d+\.\d+", said)
    script(bare / "quarto", "exit 0")
    done, _ = make(checkout, "docs", "-n", PATH=str(bare))
    assert done.returncode == 0


def test_one_version_of_quarto() -> None:
    makefile = re.search(r"^QUARTO_VERSION := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1]
    assert f'version: "{makefile}"' in (ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8")


# ---- .ci/run


@pytest.fixture
def ci(tmp_path: Path) -> Path:
    """A copy of .ci/run in a folder without data beside it, with a `make` that writes down how it was called."""
    repo = tmp_path / "clone of it"
    (repo / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", repo / ".ci" / "run")
    script(
        tmp_path / "bin" / "make",
        'cached=$(ls -A "$FASTAI_HOME" "$PIXELS_TO_RESNET_HOME" | grep -v : | wc -w)\n'
        'echo "$*|${PIXELS_TO_RESNET_IDX-unset}|$PIXELS_TO_RESNET_OFFLINE|$cached" >> "$LOG"\n'
        'test "${PIXELS_TO_RESNET_IDX-unset}" != "$FAILS"',
    )
    return repo


def ci_run(repo: Path, fails: str = "none") -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """Run it with PIXELS_TO_RESNET_IDX set, which it must take away for the stand-in."""
    log = repo.parent / "log"
    log.unlink(missing_ok=True)
    env = {"PATH": f"{repo.parent / 'bin'}{os.pathsep}{os.environ['PATH']}", "LOG": str(log), "FAILS": fails, "PIXELS_TO_RESNET_IDX": "elsewhere"}
    done = run(["bash", ".ci/run"], repo, **env)
    return done, [line.replace(" ", "").split("|") for line in log.read_text(encoding="utf-8").splitlines()]


@needs_make
def test_ci_runs_the_readme_command_on_both_data_sets_with_empty_caches(ci: Path) -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    done, calls = ci_run(ci)
    assert done.returncode == 0 and calls == [["test", "unset", "1", "0"]]
    assert "2 of 2: make test on real MNIST is not possible" in done.stdout
    mnist = ci.parent / "shared" / "mnist"
    mnist.mkdir(parents=True)
    done, calls = ci_run(ci)
    assert done.returncode == 0 and calls == [["test", "unset", "1", "0"], ["test", str(mnist).replace(" ", ""), "1", "0"]]


@needs_make
@pytest.mark.parametrize("fails", ["unset", "mnist"])
def test_ci_fails_if_either_run_fails(ci: Path, fails: str) -> None:
    mnist = ci.parent / "shared" / "mnist"
    mnist.mkdir(parents=True)
    done, calls = ci_run(ci, str(mnist) if fails == "mnist" else fails)
    assert done.returncode != 0 and len(calls) == 2 and "FAILED" in done.stdout


# ---- the package


def clean_copy(target: Path) -> Path:
    """The files of the repository, without what git ignores."""
    for path in files():
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return target


def build(folder: Path, out: Path) -> subprocess.CompletedProcess:
    """The source archive, and the wheel from it, with the installed setuptools and so without a network."""
    return run([sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", out], folder)


def test_archive_and_wheel_hold_what_they_should(tmp_path: Path) -> None:
    done = build(clean_copy(tmp_path / "copy"), tmp_path / "dist")
    assert done.returncode == 0, done.stdout + done.stderr
    cfg = settings()
    stem = f"{cfg['lib_name']}-{cfg['version']}"
    with tarfile.open(tmp_path / "dist" / f"{stem}.tar.gz") as archive:
        names = archive.getnames()
    assert {f"{stem}/{name}" for name in ("settings.ini", "LICENSE", "setup.py", "README.md", "PKG-INFO")} <= set(names)
    with zipfile.ZipFile(tmp_path / "dist" / f"{stem}-py3-none-any.whl") as wheel:
        names = wheel.namelist()
        info = f"{stem}.dist-info"
        entry_points, metadata = (wheel.read(f"{info}/{name}").decode() for name in ("entry_points.txt", "METADATA"))
    assert {name.split("/")[0] for name in names} == {cfg["lib_name"], info}
    assert sorted(Path(n).name for n in names if n.startswith(f"{cfg['lib_name']}/")) == sorted(p.name for p in (ROOT / cfg["lib_path"]).glob("*.py"))
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/LICENSE-prose.md"} <= set(names)
    entries = ConfigParser(delimiters=["="])
    entries.read_string(entry_points)
    assert dict(entries["console_scripts"]) == {name: f"{cfg['lib_name']}.{name}:main" for name in ("climb", "speedrun")}
    assert dict(entries["nbdev"]) == {cfg["lib_name"]: f"{cfg['lib_name']}._modidx:d"}
    facts = message_from_string(metadata)
    assert (facts["Version"], facts["Requires-Python"]) == (cfg["version"], f">={cfg['min_python']}")
    required = {re.match(r"[\w-]+", line)[0].lower() for line in facts.get_all("Requires-Dist")}
    assert {re.match(r"[\w-]+", line)[0].lower() for line in (cfg["requirements"] + " " + cfg["dev_requirements"]).split()} == required


def test_a_wheel_cannot_be_built_from_an_archive_without_settings(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "copy")
    manifest = copy / "MANIFEST.in"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("include settings.ini\n", ""), encoding="utf-8")
    done = build(copy, tmp_path / "dist")
    assert done.returncode != 0 and "KeyError" in done.stdout + done.stderr


# ---- licence, citation, changelog


def wrong_versions(version: str, citation: str, changelog: str) -> list[str]:
    """The files that do not know a version."""
    complaints = []
    if str(yaml.safe_load(citation)["version"]) != version:
        complaints.append("CITATION.cff")
    known = (rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", rf"^\[{re.escape(version)}\]: \S+")
    if not all(re.search(pattern, changelog, re.M) for pattern in known):
        complaints.append("CHANGELOG.md")
    return complaints


def test_citation_and_changelog_know_the_version() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "CHANGELOG.md")]
    assert wrong_versions(settings()["version"], *texts) == []
    assert wrong_versions("9.9.9", *texts) == ["CITATION.cff", "CHANGELOG.md"]
    assert wrong_versions(settings()["version"], texts[0], re.sub(r" - \d{4}-\d\d-\d\d$", "", texts[1], flags=re.M)) == ["CHANGELOG.md"]


def test_citation_follows_its_schema_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    done = run([*check, ROOT / "CITATION.cff"], tmp_path)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "CITATION.cff"
    wrong.write_text((ROOT / "CITATION.cff").read_text(encoding="utf-8").replace("authors:", "writers:"), encoding="utf-8")
    assert run([*check, wrong], tmp_path).returncode != 0


def test_citation_agrees_with_settings() -> None:
    cfg, citation = settings(), yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["title"] == cfg["title"] and citation["authors"] == [{"name": cfg["author"]}]
    assert citation["repository-code"] == cfg["git_url"] and citation["url"] == cfg["doc_host"] + cfg["doc_baseurl"]


def test_licences_are_there_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text and len(text) > 11_000
    prose = (ROOT / "LICENSE-prose.md").read_text(encoding="utf-8")
    assert all(link in prose for link in ("licenses/by/4.0/", "licenses/by-sa/3.0/", "10.24432/C50P49"))


# ---- workflows


def workflow(name: str) -> tuple[str, dict]:
    """The text and the content of a workflow."""
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    return text, yaml.safe_load(text)


def test_ci_covers_every_system_every_python_and_both_ends_of_torch() -> None:
    _, test = workflow("test.yml")
    jobs = test["jobs"]
    elsewhere = jobs["elsewhere"]["strategy"]["matrix"]["include"]
    systems = {jobs["linux"]["runs-on"], *(entry["os"] for entry in elsewhere)}
    assert systems == {"ubuntu-latest", "macos-latest", "windows-latest"}
    pythons = [f"3.{minor}" for minor in range(10, 14)]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == pythons
    assert settings()["min_python"] == pythons[0]
    assert [step["run"] for step in jobs["linux"]["steps"] if "run" in step] == ["make test"]
    requirements = settings()["requirements"].split()
    torch, vision = (next(r for r in requirements if re.match(rf"{name}\b", r)) for name in ("torch", "torchvision"))
    oldest, newest = (entry["pins"] for entry in jobs["torch"]["strategy"]["matrix"]["include"])
    low = [re.search(r">=([\d.]+)", r)[1] for r in (torch, vision)]
    assert oldest == f"torch=={low[0]}.* torchvision=={low[1]}.*"
    assert newest == f"{torch} {vision}"


def unpinned(text: str) -> list[str]:
    """The actions of a workflow that lack a full commit or the comment with its version."""
    return [line for line in re.findall(r"uses: (.+)$", text, re.M) if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)]


def test_actions_are_pinned_to_one_commit_each_with_its_version() -> None:
    texts = [p.read_text(encoding="utf-8") for p in sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
    assert [line for text in texts for line in unpinned(text)] == []
    used = {tuple(line.split("@")) for text in texts for line in re.findall(r"uses: (.+)$", text, re.M)}
    assert len(used) == len({action for action, _ in used})
    assert unpinned("- uses: actions/checkout@v6") and unpinned(f"- uses: actions/checkout@{'0' * 40}")


def test_only_the_job_that_publishes_may_write() -> None:
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        _, content = workflow(path.name)
        assert content["permissions"] == {"contents": "read"}
        rights = {name: job["permissions"] for name, job in content["jobs"].items() if "permissions" in job}
        assert rights == ({"deploy": {"pages": "write", "id-token": "write"}} if path.name == "docs.yml" else {})
        checkouts = [step for job in content["jobs"].values() for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)


# ---- the site


def sidebar(content: dict) -> list[str]:
    """The pages of the sidebar, in its order."""
    pages: list[str] = []
    for item in content["website"]["sidebar"]["contents"]:
        pages += [item] if isinstance(item, str) else item["contents"]
    return pages


def test_the_sidebar_lists_every_notebook_in_order() -> None:
    content = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    names = [p.relative_to(ROOT / "nbs").as_posix() for p in notebook_paths()]
    engine = [n for n in names if "/" in n]
    assert sidebar(content) == ["index.ipynb", *(n for n in names if n not in engine and n != "index.ipynb"), *engine]
    assert content["project"]["output-dir"] == settings()["doc_path"]


def docs(copy: Path) -> subprocess.CompletedProcess:
    """What `make docs` does, with a `quarto` that only writes the front page."""
    top = copy.parent
    script(top / "bin" / "quarto", 'test "$1" != render || { mkdir -p _docs; echo page > _docs/index.html; }')
    env = {"PATH": f"{top / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    return run([sys.executable, "-c", "from nbdev.quarto import nbdev_docs; nbdev_docs.__wrapped__(n_workers=2)"], copy, **env)


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_the_site_builds_up_to_quarto_and_leaves_the_pages_alone(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "copy")
    pages = {name: (copy / name).read_bytes() for name in ("README.md", "CONTRIBUTING.md", "_quarto.yml")}
    done = docs(copy)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    names = {p.relative_to(ROOT / "nbs").as_posix() for p in notebook_paths()}
    assert names == {p.relative_to(copy / "_proc").as_posix() for p in (copy / "_proc").rglob("*.ipynb")}
    assert (copy / "_docs" / "index.html").exists() and (copy / "_proc" / "images" / "ladder.svg").exists()
    assert pages == {name: (copy / name).read_bytes() for name in pages}


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_cell_that_mixes_an_import_with_other_code_breaks_the_site(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "copy")
    for path in (copy / "nbs").rglob("*.ipynb"):
        path.unlink()
    cells = ["#| default_exp mixed", "#| export\nanswer = 42", "import os\nvalue = made_in_a_lesson_cell"]
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Mixed\n> A test."), *code])
    nbformat.write(notebook, copy / "nbs" / "00_mixed.ipynb")
    done = docs(copy)
    assert done.returncode != 0 and "made_in_a_lesson_cell" in done.stdout + done.stderr


@pytest.mark.skipif(os.name == "nt", reason="git on Windows may check links out as files")
def test_nbdev_finds_the_one_quarto_file() -> None:
    link = ROOT / "nbs" / "_quarto.yml"
    assert link.is_symlink() and os.readlink(link) == "../_quarto.yml"


# ---- the ladder


def wrong_rungs(svg: Path, chapters: set[str]) -> list[str]:
    """Rungs that the picture shows as there and are not, or the other way round."""
    ids = {e.get("id") for e in ElementTree.parse(svg).iter() if (e.get("id") or "").startswith("rung-")}
    wanted = {f"rung-{r.number}-{'there' if r.notebook in chapters else 'planned'}" for r in RUNGS}
    return sorted(ids ^ wanted)


def test_the_picture_shows_the_chapters_there_are() -> None:
    chapters = {p.name for p in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")}
    assert {r.notebook for r in RUNGS if r.there} == chapters
    assert wrong_rungs(OUT, chapters) == []
    assert wrong_rungs(OUT, chapters ^ {"05_learner.ipynb"}) == ["rung-05-planned", "rung-05-there"]


def test_the_picture_is_reproducible_opaque_and_described(tmp_path: Path) -> None:
    once, again = tmp_path / "once.svg", tmp_path / "again.svg"
    write(once)
    write(again)
    text = once.read_text(encoding="utf-8")
    assert once.read_bytes() == again.read_bytes()
    assert "dc:date" not in text and "<text" not in text and "fill: #ffffff" in text
    for page in ("README.md", "nbs/index.ipynb"):
        alt = re.search(r"!\[([^\]]+)\]\([\w/]*images/ladder\.svg\)", (ROOT / page).read_text(encoding="utf-8"))[1]
        assert all(f"{r.number} {r.name}" in alt for r in RUNGS)
        solid = re.search(r"Steps ([\d, and]+) are solid", alt)
        assert (re.findall(r"\d\d", solid[1]) if solid else [r.number for r in RUNGS]) == [r.number for r in RUNGS if r.there]
