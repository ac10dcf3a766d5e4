"""GitHub workflows are valid, use pinned actions, ask for few rights and end in time."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

PINNED = re.compile(r"[^@\s]+@[0-9a-f]{40}$")
# What whoever opens an issue or a pull request chooses: the title, the text, the name of the branch.
FOREIGN = re.compile(r"\$\{\{(?:(?!\}\}).)*?\bgithub\s*(?:\.\s*|\[\s*['\"])(?:event|head_ref)\b(?:(?!\}\}).)*\}\}", re.S)


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


def check_workflow(name: str, text: str) -> list[str]:
    """Complaints about one workflow, beyond its schema."""
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
    return complaints + [complaint for job, body in jobs.items() for complaint in _check_job(name, job, body)]


def check_workflows(root: Path) -> list[str]:
    """Every workflow, and dependabot.yml where there is one."""
    paths = sorted(p for end in ("yml", "yaml") for p in (root / ".github" / "workflows").glob(f"*.{end}"))
    if not paths:
        return [".github/workflows holds no workflow; write one that runs the tests."]
    dependabot = root / ".github" / "dependabot.yml"
    return (
        _schema("github-workflows", paths, root)
        + (_schema("dependabot", [dependabot], root) if dependabot.exists() else [])
        + [c for path in paths for c in check_workflow(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))]
    )
