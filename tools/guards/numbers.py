"""Every decimal number and every percentage in a notebook's prose is produced by a cell of that notebook.

The rule: the number, to the digits printed in the prose, is the rounding of a number in an output. A percentage may also be the
rounding of a hundred times an output. A number from elsewhere says so, directly behind it: `98.28 % (quoted: chapter 06)`.

Not looked at: code blocks between fences, addresses, DOIs, HTML tags, version numbers (`2.4.14`, `Python 3.10`), references to
sections, figures, tables and equations (`section 3.2`).
"""
from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path

from tools.course import Cell, Notebook, joined, notebooks

DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
POWER = r"(?:[eE][-+]?\d+|\s*(?:×|x|\\times|\\cdot)\s*10\s*\^\s*\{?\s*[-+\u2212]?\d+\s*\}?)"
NUMBER = rf"(?:{DIGITS}\.\d+|(?<![\w)\]])\.\d+|{DIGITS})"
PERCENT = r"(?:\s|~|\\,|\*\*|\$|`|&nbsp;|&thinsp;)*(?:\\?%|per\s?cent\b)"
IN_PROSE = re.compile(
    rf"(?<![\d.])(?P<sign>(?<![\w)\]`])[-\u2212])?(?P<number>{NUMBER})(?P<power>{POWER})?(?!\d|\.\d)(?P<percent>{PERCENT})?"
)
IN_OUTPUT = re.compile(
    rf"(?<![\w.])(?P<sign>[-\u2212])?(?P<number>{DIGITS}\.\d*|\.\d+|{DIGITS})(?P<power>[eE][-+]?\d+)?(?!\d|\.\d)(?P<percent>\s*%)?"
)
RANGE = re.compile(r"\s*(?:to|and|or|\u2013|-|\.\.\.?)\s*$")
QUOTED = re.compile(r"[\s*`$)\]%]{0,6}\(quoted:\s*(?P<source>[^)]*)\)")
VERSION_OF = re.compile(
    r"(?:\b(?:Python|PyTorch|torch|torchvision|fastai|fastcore|nbdev|NumPy|numpy|Quarto|Jupyter|JupyterLab|CUDA|CC BY(?:-SA)?|Apache"
    r"|Licen[cs]e|version|release)"
    r"(?:\s*[(<>=~]{0,2}\s*|-|, )|\bv)$"
)
REFERENCE = re.compile(r"(?:\b(?:sections?|chapters?|figures?|fig\.?|tables?|equations?|eq\.?|appendix)|§)[\s~]*\(?$", re.I)
NOT_PROSE = re.compile(
    r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)`*~*\s*$|<!--.*?-->|\]\([^)\s]*(?:\s+\"[^\"]*\")?\)|<[a-zA-Z/][^>]*>"
    r"|https?://\S+|(?:doi:\s*)?\b10\.\d{4,}/\S+|arXiv:\s*\d{4}\.\d+|^#+\s+[1-9]\d?(?:\.\d{1,2})*\.?\s",
    re.S | re.M | re.I,
)


@dataclass(frozen=True)
class Mention:
    """A number as the prose prints it."""

    text: str
    value: Decimal
    digits: int
    percent: bool
    quoted: str | None


@dataclass(frozen=True)
class Produced:
    """A number as an output prints it; `fraction` if it has a decimal point, `percent` if it is stated in percent."""

    value: Decimal
    fraction: bool
    percent: bool


def _value(match: re.Match[str]) -> Decimal:
    value = Decimal(match["number"].replace(",", "").rstrip(".") or "0")
    if match["power"]:
        exponent = re.search(r"[-+\u2212]?\d+(?=\s*\}?$)", match["power"])
        value = value.scaleb(int(exponent[0].replace("\u2212", "-")) if exponent else 0)
    return -value if match["sign"] else value


def _digits(match: re.Match[str], value: Decimal) -> int:
    """How many decimals the number is printed to: 2 for 0.25, 4 for 2.5e-3."""
    places = len(match["number"].partition(".")[2])
    if not match["power"]:
        return places
    return places - (abs(value).adjusted() - abs(Decimal(match["number"].replace(",", ""))).adjusted() if value else 0)


def blank(match: re.Match[str]) -> str:
    """Spaces in place of what is not prose, so that positions and line breaks stay."""
    return re.sub(r"[^\n]", " ", match[0])


def mentions(text: str) -> Iterator[Mention]:
    """Every decimal number and every percentage of a piece of Markdown."""
    text = NOT_PROSE.sub(blank, text.replace("{,}", ",").replace("{.}", "."))
    found = list(IN_PROSE.finditer(text))
    for i, match in enumerate(found):
        follower = found[i + 1] if i + 1 < len(found) and RANGE.match(text[match.end() : found[i + 1].start()]) else None
        percent = bool(match["percent"] or (follower and follower["percent"]))
        if not percent and "." not in match["number"] and not match["power"]:
            continue
        before = text[max(0, match.start() - 30) : match.start()]
        if not percent and (VERSION_OF.search(before) or REFERENCE.search(before)):
            continue
        mark = QUOTED.match(text, match.end()) or (follower and QUOTED.match(text, follower.end()))
        value = _value(match)
        yield Mention(match[0].strip(), value, _digits(match, value), percent, mark["source"].strip() if mark else None)


def output_texts(cell: Cell) -> Iterator[str]:
    """The text of a cell's outputs: printed text, plain text, tables without their tags."""
    for output in cell.outputs:
        if output["output_type"] == "stream":
            yield joined(output.get("text"))
        for kind, content in output.get("data", {}).items():
            if kind in ("text/plain", "text/markdown", "text/latex"):
                yield joined(content)
            elif kind == "text/html":
                yield html.unescape(re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]*>", " ", joined(content), flags=re.S))


def produced(notebook: Notebook) -> set[Produced]:
    """Every number in the outputs of a notebook."""
    found = set()
    for cell in notebook.code:
        for text in output_texts(cell):
            in_percent = "%" in text or "percent" in text.lower() or "per cent" in text.lower()
            for match in IN_OUTPUT.finditer(text):
                fraction = "." in match["number"] or bool(match["power"])
                found.add(Produced(_value(match), fraction, bool(match["percent"]) or (in_percent and fraction)))
    return found


def _rounds_to(value: Decimal, mention: Mention) -> bool:
    unit = Decimal(1).scaleb(-mention.digits)
    return any(value.quantize(unit, rounding=way) == mention.value for way in (ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_HALF_DOWN))


def is_produced(mention: Mention, outputs: set[Produced]) -> bool:
    """Whether an output rounds to the number of the prose."""
    if mention.percent:
        return any((o.percent and _rounds_to(o.value, mention)) or (o.fraction and _rounds_to(o.value * 100, mention)) for o in outputs)
    return any(abs(o.value) < Decimal("1e20") and _rounds_to(o.value, mention) for o in outputs)


def check_notebook_numbers(notebook: Notebook) -> list[str]:
    """Complaints about one notebook; captions and alt texts of figures count as prose."""
    outputs = produced(notebook)
    complaints = []
    for cell in notebook.cells:
        prose = cell.source if cell.kind == "markdown" else f"{cell.option('fig-cap', '')}\n{cell.option('fig-alt', '')}"
        if cell.kind not in ("markdown", "code"):
            continue
        for mention in mentions(prose):
            if mention.quoted == "":
                complaints.append(f"{cell.where}: {mention.text} is quoted from nowhere; name the source, as in `(quoted: chapter 06)`.")
            elif mention.quoted is None and not is_produced(mention, outputs):
                remedy = f"show it in a cell, or write `{mention.text} (quoted: its source)`"
                complaints.append(f"{cell.where}: no output of this notebook gives {mention.text}; {remedy}.")
    return complaints


def check_numbers(root: Path) -> list[str]:
    """Every saved notebook."""
    return [complaint for notebook in notebooks(root) for complaint in check_notebook_numbers(notebook)]
