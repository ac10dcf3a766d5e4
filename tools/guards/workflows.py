"""GitHub workflows are valid, use pinned actions, ask for few rights and end in time.

A machine of our own, with a GPU say, outlives the job, and may reach what strangers must not. So it only runs what the branch of
settings.ini holds, in the repository of settings.ini, one job at a time; never what a pull request brings.
"""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tools.course import settings

PINNED = re.compile(r"[^@\s]+@[0-9a-f]{40}$")
# What whoever opens an issue or a pull request chooses: the title, the text, the name of the branch.
FOREIGN = re.compile(r"\$\{\{(?:(?!\}\}).)*?\bgithub\s*(?:\.\s*|\[\s*['\"])(?:event|head_ref)\b(?:(?!\}\}).)*\}\}", re.S)

CHOSEN = re.compile(r"\$\{\{(?:(?!\}\}).)*?\binputs\b(?:(?!\}\}).)*\}\}", re.S)
HOSTED = re.compile(r"(?:ubuntu|macos|windows)-[\w.-]+")
# What only those start who may write to the repository.
TRUSTED = {"push", "schedule", "workflow_dispatch"}


def _schema(schema: str, paths: list[Path], root: Path) -> list[str]:
    """What check-jsonschema says about some files; it carries the schemas and needs no network."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", errors="replace")
    said = re.findall(r"^\s+(\S.*::.*)$", done.stdout, re.M) or [(done.stdout + done.stderr).strip()]
    named = [line.replace(f"{root.resolve().as_posix()}/", "").replace(f"{root.as_posix()}/", "") for line in said]
    return [f"{line}; follow the schema of {schema}." for line in named] if done.returncode else []


def _uses(workflow: dict[str, Any]) -> list[str]:
    jobs = workflow.get("jobs") or {}
    steps = [step for job in jobs.values() for step in job.get("steps") or []]
    return [used["uses"] for used in [*jobs.values(), *steps] if "uses" in used]


def _check_job(name: str, job: str, body: dict[str, Any]) -> list[str]:
    complaints = []
    if "timeout-minutes" not in body and "uses" not in body:
        complaints.append(f"{name}: the job {job} has no timeout-minutes; add it.")
    if body.get("permissions") == "write-all":
        complaints.append(f"{name}: the job {job} may write everything; name the one right that it needs, such as `pages: write`.")
    for step in body.get("steps") or []:
        for script in (step.get("run"), (step.get("with") or {}).get("script")):
            found = FOREIGN.search(str(script or ""))
            if found:
                remedy = "put it into `env:` and use the variable, quoted"
                complaints.append(f"{name}: the job {job} writes {found[0]}, which a stranger chooses, into a script; {remedy}.")
    return complaints


def _machines(body: dict[str, Any]) -> list[str]:
    """The labels of the machines that a job may run on, those of its matrix filled in; an expression that is not understood stays."""
    wanted = body.get("runs-on") or []
    matrix = (body.get("strategy") or {}).get("matrix") or {}
    found = re.fullmatch(r"\$\{\{\s*matrix\.(\w+)\s*\}\}", wanted) if isinstance(wanted, str) else None
    if found and isinstance(matrix, dict):
        wanted = [*matrix.get(found[1], []), *(entry[found[1]] for entry in matrix.get("include") or [] if found[1] in entry)] or wanted
    return [str(label) for label in (wanted if isinstance(wanted, list) else [wanted])]


def _triggers(workflow: dict[str, Any]) -> dict[str, Any]:
    """What starts a workflow, with its details. YAML reads the word `on` as true."""
    on = workflow.get("on", workflow.get(True)) or {}  # type: ignore[call-overload]
    return on if isinstance(on, dict) else dict.fromkeys([on] if isinstance(on, str) else on)


def _check_own_machine(job: str, body: dict[str, Any], workflow: dict[str, Any], home: str, branch: str) -> list[str]:
    """Complaints about a job that runs on a machine of our own, each with the remedy."""
    triggers = _triggers(workflow)
    complaints = [f"can be started by {t}, so by strangers; take that trigger out, or use ubuntu-latest" for t in sorted(set(triggers) - TRUSTED)]
    if "push" in triggers and (triggers["push"] or {}).get("branches") != [branch]:
        complaints.append(f"runs what any branch holds; write `branches: [{branch}]` below `push:`")
    condition = str(body.get("if", "")).removeprefix("${{").removesuffix("}}").strip()
    if "||" in condition or not re.match(rf"github\.repository == '{re.escape(home)}'(?: && |$)", condition):
        complaints.append(f"would wait for such a machine in a fork too; write `if: github.repository == '{home}'`")
    turns = body.get("concurrency", workflow.get("concurrency"))
    if not isinstance(turns, dict) or "${{" in str(turns.get("group")) or turns.get("cancel-in-progress", False) is not False:
        complaints.append("may share the machine, or be stopped half-way; write `concurrency:` with a fixed group and `cancel-in-progress: false`")
    if "write" in str(body.get("permissions", "")):
        complaints.append("may write to the repository; take that right away, and write from a job on ubuntu-latest")
    for step in body.get("steps") or []:
        given = step.get("with") or {}
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            if given.get("persist-credentials") is not False:
                complaints.append("leaves its credentials on the machine; write `persist-credentials: false` below `with:` of the checkout")
            if {"ref", "repository"} & given.keys():
                complaints.append("checks out something else than what started it; take `ref:` and `repository:` away")
        if found := CHOSEN.search(str(step.get("run", ""))):
            complaints.append(f"writes {found[0]} into a script; put it into `env:` and use the variable, quoted")
    return complaints


def check_workflow(name: str, text: str, home: str = "", branch: str = "main") -> list[str]:
    """Complaints about one workflow, beyond its schema; `home` is the repository, OWNER/NAME, whose `branch` its own machines trust."""
    try:
        workflow = yaml.safe_load(text)
        used, jobs = _uses(workflow), workflow.get("jobs") or {}
    except (yaml.YAMLError, AttributeError, TypeError):
        return [f"{name}: this is not a workflow; correct its YAML."]
    complaints = [
        f"{name}: {action} is not pinned; write the 40 hexadecimal digits of a commit after the @."
        for action in used
        if not action.startswith("./") and not PINNED.match(action)
    ]
    rights = workflow.get("permissions")
    if "permissions" not in workflow:
        complaints.append(f"{name}: no permissions at the top level; write `permissions:` and `contents: read` below it.")
    elif rights == "write-all" or (isinstance(rights, dict) and "write" in rights.values()):
        complaints.append(f"{name}: the top level gives the right to write; give it to the one job that needs it.")
    for job, body in jobs.items():
        complaints += _check_job(name, job, body)
        if "uses" not in body and not all(HOSTED.fullmatch(label) for label in _machines(body)):
            own = _check_own_machine(job, body, workflow, home, branch)
            complaints += [f"{name}: the job {job} runs on a machine of our own and {complaint}." for complaint in own]
    return complaints


def check_workflows(root: Path) -> list[str]:
    """Every workflow, and dependabot.yml where there is one."""
    paths = sorted(p for end in ("yml", "yaml") for p in (root / ".github" / "workflows").glob(f"*.{end}"))
    if not paths:
        return [".github/workflows holds no workflow; write one that runs the tests."]
    dependabot, cfg = root / ".github" / "dependabot.yml", settings(root)
    home, branch = cfg["git_url"].removeprefix("https://github.com/"), cfg["branch"]
    return (
        _schema("github-workflows", paths, root)
        + (_schema("dependabot", [dependabot], root) if dependabot.exists() else [])
        + [c for p in paths for c in check_workflow(p.relative_to(root).as_posix(), p.read_text(encoding="utf-8"), home, branch)]
    )
