"""No file of the repository names a machine's folders or a package registry, or uses emoji."""
from __future__ import annotations

import json
import re
from pathlib import Path

from tools.course import text_files

MACHINE_PATH = re.compile(
    r"(?<![\w.~})/-])(?<!https:)(?<!http:)/{1,3}(?:(?:work|root|home|tmp|Users|private|content)(?=[/\s\"'`,;:)\]]|$)"
    r"|(?:opt|srv|mnt|media|Volumes|var/(?:folders|tmp|home|lib|log|cache))/[\w.~-])"
    r"|\b[A-Za-z]:[\\/]+(?:Users|Windows|Program|Documents and)",
    re.M,
)
REGISTRY = re.compile(
    r"\b(?:(?:test\.)?pypi\.(?:org|python\.org)|files\.pythonhosted\.org|(?:download|wheels)\.pytorch\.org"
    r"|(?:conda|repo)\.anaconda\.(?:org|com)|registry\.npmjs\.org)\b",
    re.I,
)
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u26ff\u2705\u2728\u274c\u274e\u2753-\u2757\u2763\u2764\u2b50\u2b55\ufe0f]")
RULES = {
    "a machine's path": (MACHINE_PATH, "write a relative path, or read it from the environment"),
    "a package registry": (REGISTRY, "leave the choice of registry to the reader's own settings"),
    "an emoji": (EMOJI, "use a word"),
}


def _without_pictures(text: str) -> str:
    """A notebook's JSON without its base64 pictures and keeping line numbers."""
    return re.sub(r'("image/(?:png|jpeg)": ")[^"]*', r"\1", re.sub(r"(base64,)[A-Za-z0-9+/=\\n]+", r"\1", text))


def check_text_traces(name: str, text: str) -> list[str]:
    """Complaints about one file."""
    if name.endswith(".ipynb"):
        text = json.dumps(json.loads(_without_pictures(text)), ensure_ascii=False, indent=1).replace('\\"', '"').replace("\\n", "\n")
    return [
        f"{name}: {what} ({match[0].strip()!r}, line {text.count(chr(10), 0, match.start()) + 1}); {remedy}."
        if not name.endswith(".ipynb")
        else f"{name}: {what} ({match[0].strip()!r} in {text[max(0, match.start() - 20) : match.end() + 20]!r}); {remedy}."
        for what, (pattern, remedy) in RULES.items()
        for match in pattern.finditer(text)
    ]


def check_traces(root: Path) -> list[str]:
    """Every text file of the repository."""
    return [complaint for name, text in text_files(root) for complaint in check_text_traces(name, text)]
