"""The guard rails: each looks at the repository and returns its complaints, one sentence each, with the remedy.

    python -m tools.guards              all but the slow ones
    python -m tools.guards --all        all
    python -m tools.guards numbers links

`GUARDS` names them. A guard is a function from the folder of the repository to a list of sentences; an empty list is approval.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.guards import (
    alone,
    anatomy,
    clean,
    commands,
    figures,
    library,
    links,
    lint,
    nbdevtest,
    numbers,
    outputs,
    requirements,
    spelling,
    table,
    traces,
    workflows,
)

Guard = Callable[[Path], list[str]]

GUARDS: dict[str, Guard] = {
    "clean": clean.check_clean,
    "step": clean.check_in_step,
    "numbers": numbers.check_numbers,
    "figures": figures.check_figures,
    "outputs": outputs.check_outputs,
    "library": library.check_library,
    "commands": commands.check_commands,
    "links": links.check_links,
    "home": links.check_home,
    "requirements": requirements.check_requirements,
    "spelling": spelling.check_spelling,
    "lint": lint.check_lint,
    "anatomy": anatomy.check_anatomy,
    "traces": traces.check_traces,
    "workflows": workflows.check_workflows,
    "table": table.check_table,
}
SLOW: dict[str, Guard] = {"alone": alone.check_alone, "nbdev_test": nbdevtest.check_nbdev_test}
