"""The workflow for machines with a GPU: what it runs, and that no change lets strangers reach such a machine."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from small import SETTINGS, write_repository

from pixels_to_resnet import climb, speedrun
from tools.course import ROOT, settings
from tools.guards.workflows import check_workflow, check_workflows

TEXT = (ROOT / ".github" / "workflows" / "gpu.yml").read_text(encoding="utf-8")
GPU = yaml.safe_load(TEXT)
JOB = GPU["jobs"]["climb"]
HOME = f"{settings()['user']}/{settings()['repo']}"
SCRIPTS = "\n".join(step["run"] for step in JOB["steps"] if "run" in step)


def complaints(old: str, new: str) -> list[str]:
    """What the guard says about gpu.yml with one change."""
    assert old in TEXT, f"{old!r} no longer stands in gpu.yml"
    return check_workflow("gpu.yml", TEXT.replace(old, new), HOME, settings()["branch"])


# ---- what it runs


def test_it_waits_for_its_machine_and_takes_turns() -> None:
    assert JOB["runs-on"] == ["self-hosted", "linux", "gpu"] and 0 < JOB["timeout-minutes"] <= 180
    assert GPU["concurrency"] == {"group": "gpu", "cancel-in-progress": False} and GPU["permissions"] == {"contents": "read"}
    assert GPU[True].keys() == {"push", "schedule", "workflow_dispatch"}
    assert set(GPU[True]["workflow_dispatch"]["inputs"]) == {"data", "rungs", "seed"}


def test_it_runs_the_wheel_the_records_the_measurements_and_the_tests() -> None:
    wanted = ("tools.runner", "pip install --no-deps dist/", "climb --device cuda", "speedrun --device cuda", "bench.results --device cuda")
    assert [command for command in (*wanted, "-m pytest") if command not in SCRIPTS] == []
    assert re.search(r"^ *climb .*--check .*--resume .*--junit ", SCRIPTS, re.M)
    for folder in ("/climb", "/speedrun", "/results", "/tests.xml"):
        assert f"$KEPT{folder}" in SCRIPTS, "what is not in the kept folder is in no artifact"
    kept = next(step for step in JOB["steps"] if "upload-artifact" in step.get("uses", ""))
    assert kept["if"] == "always()" and kept["with"]["path"] == JOB["env"]["KEPT"].removeprefix("../")


@pytest.mark.parametrize("module", [climb, speedrun], ids=["climb", "speedrun"])
def test_its_flags_exist(module: ModuleType) -> None:
    name = module.__name__.split(".")[-1]
    line = next(line for line in SCRIPTS.splitlines() if line.strip().startswith(f"{name} "))
    assert set(re.findall(r" (--[\w-]+)", line)) <= set(module.make_parser()._option_string_actions)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_its_scripts_are_good_shell() -> None:
    for step in JOB["steps"]:
        if "run" in step:
            script = re.sub(r"\$\{\{.*?\}\}", "1", step["run"])
            done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    assert subprocess.run(["bash", "-n"], input="if then", capture_output=True, text=True).returncode != 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("given", ["", "linear mlp", "$(echo a) *", "'a b' \\; `c`"])
def test_what_is_typed_into_the_form_stays_words(given: str) -> None:
    line = next(line for line in SCRIPTS.splitlines() if line.strip().startswith("read "))
    script = f'set -eo pipefail\n{line}\nfor word in "${{rungs[@]}}"; do printf "%s\\n" "$word"; done'
    done = subprocess.run(["bash", "-c", script], env={"RUNGS": given}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == (["--rungs", *given.split()] if given else [])


def test_every_test_that_needs_a_gpu_is_among_those_it_runs() -> None:
    assert "$(grep -lw cuda tests/test_*.py)" in SCRIPTS
    skipped = re.compile(r"(?:skipif|skip)\([^\n]*GPU")
    tests = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py")}
    assert [name for name, text in tests.items() if skipped.search(text) and not re.search(r"\bcuda\b", text)] == []


# ---- who can reach the machine


def test_it_is_accepted_as_it_is() -> None:
    assert check_workflow("gpu.yml", TEXT, HOME, settings()["branch"]) == []


LABELS = "runs-on: [self-hosted, linux, gpu]"
CONDITION = f"    if: github.repository == '{HOME}'\n"
BREAKS = {
    "a pull request": ("  schedule:\n", "  pull_request:\n  schedule:\n", "can be started by pull_request, so by strangers"),
    "a pull request of a fork": ("  schedule:\n", "  pull_request_target:\n  schedule:\n", "can be started by pull_request_target"),
    "a comment": ("  schedule:\n", "  issue_comment:\n  schedule:\n", "can be started by issue_comment"),
    "another workflow": ("  schedule:\n", "  workflow_run:\n    workflows: [test]\n  schedule:\n", "can be started by workflow_run"),
    "every branch": ("  push:\n    branches: [main]\n", "  push:\n", "runs what any branch holds"),
    "another branch": ("branches: [main]", 'branches: ["**"]', "runs what any branch holds"),
    "no condition": (CONDITION, "", "would wait for such a machine in a fork too"),
    "another home": (HOME, "stranger/pixels_to_resnet", f"write `if: github.repository == '{HOME}'`"),
    "a way round the condition": (CONDITION, f"{CONDITION[:-1]} || always()\n", "would wait for such a machine in a fork too"),
    "an unpinned action": ("upload-artifact@043fb46d1a93c77aae656e7c1c64a875d1fc6a0a # v7.0.1", "upload-artifact@v7", "is not pinned"),
    "no turns": ("concurrency:\n  group: gpu\n  cancel-in-progress: false\n", "", "may share the machine, or be stopped half-way"),
    "turns for each branch": ("group: gpu\n", "group: gpu-${{ github.ref }}\n", "may share the machine"),
    "stopped half-way": ("cancel-in-progress: false", "cancel-in-progress: true", "or be stopped half-way"),
    "rights to write": ("contents: read", "contents: write", "the top level gives the right to write"),
    "a job's rights to write": (LABELS, f"{LABELS}\n    permissions:\n      contents: write", "may write to the repository"),
    "credentials stay": ("persist-credentials: false", "persist-credentials: true", "leaves its credentials on the machine"),
    "other code": ("          path: course\n", "          path: course\n          ref: ${{ inputs.ref }}\n", "checks out something else"),
    "input as code": ('--seed "$SEED"', "--seed ${{ inputs.seed }}", "writes ${{ inputs.seed }} into a script"),
    "a title as code": ('--seed "$SEED"', "--seed ${{ github.event.head_commit.message }}", "which a stranger chooses"),
    "no end": ("    timeout-minutes: 120\n", "", "has no timeout-minutes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_is_rejected(name: str) -> None:
    old, new, what = BREAKS[name]
    found = complaints(old, new)
    assert len(found) == 1 and what in found[0], found


def test_a_machine_of_our_own_is_known_whatever_its_label() -> None:
    matrix = "runs-on: ${{ matrix.os }}\n    strategy:\n      matrix:\n        "
    own = ("runs-on: gpu", "runs-on: {group: ours, labels: gpu}", "runs-on: ${{ vars.MACHINE }}")
    for other in (*own, f"{matrix}os: [ubuntu-latest, gpu]", f"{matrix}include: [{{os: gpu}}]"):
        changed = TEXT.replace(LABELS, other).replace(CONDITION, "")
        assert any("in a fork too" in c for c in check_workflow("gpu.yml", changed, HOME)), other
    for other in ("runs-on: ubuntu-latest", f"{matrix}os: [ubuntu-latest, macos-14]"):
        assert check_workflow("gpu.yml", TEXT.replace(LABELS, other).replace(CONDITION, ""), HOME) == [], other


def test_the_home_and_the_branch_are_those_of_the_settings(tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repo")
    (root / ".github" / "workflows").mkdir(parents=True)
    path = root / ".github" / "workflows" / "gpu.yml"
    path.write_text(TEXT.replace(HOME, "small-owner/small_course"), encoding="utf-8")
    assert check_workflows(root) == []
    (root / "settings.ini").write_text(SETTINGS.replace("branch = main", "branch = trunk"), encoding="utf-8")
    assert [c for c in check_workflows(root) if "write `branches: [trunk]`" in c]
    path.write_text(TEXT, encoding="utf-8")
    assert [c for c in check_workflows(root) if "write `if: github.repository == 'small-owner/small_course'`" in c]


def test_the_schema_is_checked_too(tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repo")
    (root / ".github" / "workflows").mkdir(parents=True)
    text = TEXT.replace(HOME, "small-owner/small_course").replace("timeout-minutes: 120", "timeout-minutes: soon")
    (root / ".github" / "workflows" / "gpu.yml").write_text(text, encoding="utf-8")
    assert [c for c in check_workflows(root) if "follow the schema of github-workflows" in c]
