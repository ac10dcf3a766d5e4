"""Run a notebook from top to bottom in a kernel of its own."""
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

# One thread, so that sums come out the same bit for bit; no progress bars, which a saved page shows as a heap of lines.
CALM = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning", "PYTHONHASHSEED": "0", "TQDM_DISABLE": "1"}


class NotebookFailed(Exception):
    """A notebook did not run to its end; the message is one sentence and the end of the traceback."""


def is_skipped(cell: Any, slow: bool) -> bool:
    """Whether a notebook's cell is left as it is: one with `#| eval: false` always, one with `#| slow` unless `slow`."""
    head = cell.source.splitlines()[:5] if cell.cell_type == "code" else []
    return "#| eval: false" in head or (not slow and "#| slow" in head)


def execute(path: Path, first_on_path: Path | None = None, timeout: int = 300, extra: dict[str, str] | None = None, slow: bool = False) -> Any:
    """The notebook at `path` with fresh outputs; the file is not touched.

    `first_on_path` goes before everything else on the kernel's PYTHONPATH, `extra` into its environment, and `timeout` is the limit in
    seconds for one cell. Cells with `#| eval: false`, and those with `#| slow` unless `slow`, keep their outputs. Raises NotebookFailed.
    """
    notebook = nbformat.read(path, as_version=4)
    skipped = {c.id: c.source for c in notebook.cells if is_skipped(c, slow)}
    for cell in notebook.cells:
        if cell.id in skipped:
            cell.source = ""
    env = {**os.environ, **CALM, **(extra or {})}
    env.pop("MPLBACKEND", None)
    if first_on_path is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(first_on_path), os.environ.get("PYTHONPATH", "")]))
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],
    )
    try:
        client.execute(env=env)
    except CellExecutionError as error:
        story = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        raise NotebookFailed(f"a cell of {path.name} stopped with {error.ename}: {error.evalue}; repair it.\n{story}") from None
    except CellTimeoutError:
        raise NotebookFailed(f"a cell of {path.name} took longer than {timeout} seconds; make it quicker.") from None
    except DeadKernelError:
        raise NotebookFailed(f"the kernel of {path.name} died; look for what uses too much memory.") from None
    finally:
        for cell in notebook.cells:
            if cell.id in skipped:
                cell.source = skipped[cell.id]
    return notebook
