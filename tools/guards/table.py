"""README.md's table of notebooks is the one that its generator writes."""
from __future__ import annotations

from pathlib import Path

from tools.readme import NoMarkers, rewritten


def check_table(root: Path) -> list[str]:
    """The block between the two markers is in step with the notebooks."""
    readme = root / "README.md"
    old = readme.read_text(encoding="utf-8") if readme.exists() else ""
    try:
        new = rewritten(old, root)
    except NoMarkers as error:
        return [str(error)]
    return [] if old == new else ["README.md: the table of notebooks is out of step; run `python -m tools.readme`."]
