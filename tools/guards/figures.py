"""Every figure has a caption and words for those who cannot see it."""
from __future__ import annotations

import re
from pathlib import Path

import yaml

from tools.course import Cell, Notebook, joined, notebooks, text_files

SHORTEST = 20
MARKDOWN_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<file>[^)]*)\)(?P<attributes>\{[^}]*\})?")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.I | re.S)
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1\s*$|`[^`\n]+`", re.S | re.M)


def shows_picture(cell: Cell) -> bool:
    """Whether an output of the cell is a picture, as such or drawn inside HTML."""
    for data in (o.get("data", {}) for o in cell.outputs):
        if any(kind.startswith("image/") for kind in data) or "<svg" in joined(data.get("text/html")):
            return True
    return False


def _long_enough(text: object, shortest: int) -> bool:
    entries = text if isinstance(text, list) else [text]
    return bool(entries) and all(isinstance(entry, str) and len(entry.strip()) >= shortest for entry in entries)


def pictures_without_alt(text: str) -> list[str]:
    """The images of a piece of Markdown or HTML that have no alternative text."""
    text = CODE.sub("", text)
    bare = [m["file"] for m in MARKDOWN_IMAGE.finditer(text) if not m["alt"].strip() and "fig-alt" not in (m["attributes"] or "")]
    return bare + [m[0][:60] for m in HTML_IMAGE.finditer(text) if not re.search(r"\balt\s*=\s*(\"[^\"]+\"|'[^']+')", m[0])]


def check_notebook_figures(notebook: Notebook) -> list[str]:
    """Complaints about one notebook."""
    complaints = []
    for cell in notebook.cells:
        html = "\n".join(joined(o.get("data", {}).get("text/html")) for o in cell.outputs)
        for image in pictures_without_alt(cell.source if cell.kind == "markdown" else html):
            complaints.append(f"{cell.where}: the image {image} has no alt text; say in words what it shows.")
        if cell.kind != "code":
            continue
        try:
            options = cell.options
        except yaml.YAMLError:
            complaints.append(f"{cell.where}: its `#|` lines are not YAML, so Quarto will stop; put quotes round the text.")
            continue
        if shows_picture(cell):
            if not _long_enough(options.get("fig-alt"), SHORTEST):
                complaints.append(f"{cell.where}: its figure has no alt text of {SHORTEST} characters; add a line `#| fig-alt: what it shows`.")
            if not _long_enough(options.get("fig-cap"), 1):
                complaints.append(f"{cell.where}: its figure has no caption; add a line `#| fig-cap: what to see in it`.")
    return complaints


def check_figures(root: Path) -> list[str]:
    """Every notebook, and the images of every .md file."""
    pages = ((name, text) for name, text in text_files(root) if name.endswith(".md"))
    return [c for notebook in notebooks(root) for c in check_notebook_figures(notebook)] + [
        f"{name}: the image {image} has no alt text; say in words what it shows." for name, text in pages for image in pictures_without_alt(text)
    ]
