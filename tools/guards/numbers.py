"""Every decimal number and every percentage in a notebook's prose is produced by a cell of that notebook.

The rule: the number, to the digits printed in the prose, is the rounding of a number that an output shows with at least as many
digits. A percentage may also be the rounding of a hundred times an output. A number from elsewhere says so, directly behind it:
`98.28 % (quoted: chapter 06)`.

So that a wrong number is not let through because some output happens to round to it:

- the output stands in the same section of the notebook (they begin at `##`) or in an earlier one;
- a number of one or two significant digits counts only if an output of its own section shows it; in the sections of ANYWHERE, which look
  back, any earlier section will do. Of an output with more than CROWD numbers it must be one as it stands there, not rounded: a table or a
  long list has something that rounds to nearly every one.

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
CROWD, EXACT = 12, 3
ANYWHERE = ("What to remember", "Quiz", "Exercises")
SECTION = re.compile(r"^##[ \t]+(?P<title>.+?)[ \t]*(?:\{[^}\n]*\})?[ \t]*#*$", re.M)
FENCED = re.compile(r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)`*~*\s*$", re.S | re.M)
NOT_PROSE = re.compile(
    r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)`*~*\s*$|<!--.*?-->|\]\([^)\s]*(?:\s+\"[^\"]*\")?\)|<[a-zA-Z/][^>]*>"
    r"|https?://\S+|(?:doi:\s*)?\b10\.\d{4,}/\S+|arXiv:\s*\d{4}\.\d+|^#+\s+[1-9]\d?(?:\.\d{1,2})*\.?\s",
    re.S | re.M | re.I,
)


@dataclass(frozen=True)
class Mention:
    """A number as the prose prints it: `digits` behind the point, `figures` significant ones."""

    text: str
    value: Decimal
    digits: int
    percent: bool
    quoted: str | None

    @property
    def figures(self) -> int:
        return max(1, abs(self.value).adjusted() + 1 + self.digits) if self.value else 1


@dataclass(frozen=True)
class Produced:
    """A number as an output prints it, with `digits` behind the point; `fraction` if it has a point, `percent` if it is stated in percent.

    `crowded` if more than CROWD numbers stand in the same output, and `section` counts the headings before it.
    """

    value: Decimal
    digits: int
    fraction: bool
    percent: bool
    crowded: bool = False
    section: int = 0


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


def sections(notebook: Notebook) -> Iterator[tuple[Cell, int, str, str]]:
    """The cells with the number and the title of their section and their prose; a cell with a heading inside comes once for each part."""
    number, title = 0, ""
    for cell in notebook.cells:
        if cell.kind == "code":
            yield cell, number, title, f"{cell.option('fig-cap', '')}\n\n{cell.option('fig-alt', '')}"
        elif cell.kind == "markdown":
            begin = 0
            for heading in SECTION.finditer(FENCED.sub(blank, cell.source)):
                yield cell, number, title, cell.source[begin : heading.start()]
                begin, number, title = heading.start(), number + 1, heading["title"]
            yield cell, number, title, cell.source[begin:]


def produced(notebook: Notebook) -> set[Produced]:
    """Every number in the outputs of a notebook."""
    found = set()
    for cell, section, _, _ in sections(notebook):
        for text in output_texts(cell):
            in_percent = "%" in text or "percent" in text.lower() or "per cent" in text.lower()
            matches = list(IN_OUTPUT.finditer(text))
            for match in matches:
                fraction, value = "." in match["number"] or bool(match["power"]), _value(match)
                percent = bool(match["percent"]) or (in_percent and fraction)
                found.add(Produced(value, _digits(match, value), fraction, percent, len(matches) > CROWD, section))
    return found


def _rounds_to(value: Decimal, digits: int, mention: Mention) -> bool:
    unit = Decimal(1).scaleb(-mention.digits)
    ways = (ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_HALF_DOWN)
    return digits >= mention.digits and any(value.quantize(unit, rounding=way) == mention.value for way in ways)


def _counts(output: Produced, mention: Mention, section: int, looks_back: bool) -> bool:
    if mention.figures >= EXACT:
        return output.section <= section
    as_it_stands = (output.value, output.digits) == (mention.value, mention.digits)
    return (as_it_stands or not output.crowded) and (output.section <= section if looks_back else output.section == section)


def _gives(output: Produced, mention: Mention) -> bool:
    if abs(output.value) >= Decimal("1e20"):
        return False
    if not mention.percent:
        return _rounds_to(output.value, output.digits, mention)
    return (output.percent and _rounds_to(output.value, output.digits, mention)) or (
        output.fraction and _rounds_to(output.value * 100, output.digits - 2, mention)
    )


def is_produced(mention: Mention, outputs: set[Produced], section: int = 0, looks_back: bool = False) -> bool:
    """Whether an output that counts for the prose of `section` rounds to the number; `looks_back` for the sections of ANYWHERE."""
    return any(_counts(o, mention, section, looks_back) and _gives(o, mention) for o in outputs)


def check_notebook_numbers(notebook: Notebook) -> list[str]:
    """Complaints about one notebook; captions and alt texts of figures count as prose."""
    outputs = produced(notebook)
    complaints = []
    for cell, section, title, prose in sections(notebook):
        for mention in mentions(prose):
            if mention.quoted == "":
                complaints.append(f"{cell.where}: {mention.text} is quoted from nowhere; name the source, as in `(quoted: chapter 06)`.")
            elif mention.quoted is None and not is_produced(mention, outputs, section, title in ANYWHERE):
                complaints.append(f"{cell.where}: {_why_not(mention, outputs)}")
    return complaints


def _why_not(mention: Mention, outputs: set[Produced]) -> str:
    remedy = f"show it in a cell, or write `{mention.text} (quoted: its source)`"
    if not any(_gives(o, mention) for o in outputs):
        return f"no output of this notebook gives {mention.text}; {remedy}."
    if mention.figures >= EXACT:
        return f"no output gives {mention.text} in this section or an earlier one; move it down, or {remedy}."
    return f"no short output of this section gives {mention.text}, which many a number rounds to; print it with {EXACT} figures, or {remedy}."


def check_numbers(root: Path) -> list[str]:
    """Every saved notebook."""
    return [complaint for notebook in notebooks(root) for complaint in check_notebook_numbers(notebook)]
