"""Every command that README.md, CONTRIBUTING.md and the prose of a notebook show exists."""
from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from tools.course import ROOT, notebooks, script, settings

PAGES = ("README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^ *```+ *(?:sh|bash|shell|console|zsh)\b[^\n]*\n(.*?)^ *```+ *$", re.S | re.M)
INLINE = re.compile(r"`((?:make |climb\b|python -m |nbdev_)[^`\n]*)`")
EVERYWHERE = set("cd git gh source . export set sudo apt-get apt brew winget dnf mkdir ls cat diff timeout test podman docker".split())
INSTALLED = {"pip", "pytest", "jupyter", "jupyter-lab", "ruff", "codespell", "check-jsonschema", "torchrun"}
PYTHON = re.compile(r"(?:.*[/\\])?(?:python3?(?:\.\d+)?|py)(?:\.exe)?$")


def shown_commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """The commands of a page, as words, and whether each is complete (in a block) or only named in a sentence."""
    for block in BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        if any(line.lstrip().startswith("$ ") for line in lines):
            lines = [line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ ")]
        for line in lines:
            yield from ((words, True) for words in _split(line))
    for inline in INLINE.findall(BLOCK.sub("", text)):
        yield from ((words, False) for words in _split(inline))


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set(";&|"):
            while command and re.match(r"\w+=", command[0]):
                command.pop(0)
            if command:
                yield command
            command = []
        else:
            command.append(word)


def make_targets(root: Path) -> set[str]:
    """The targets that a Makefile defines."""
    makefile = root / "Makefile"
    text = makefile.read_text(encoding="utf-8") if makefile.exists() else ""
    return {name for line in re.findall(r"^([^\s#=:][^#=:]*):(?!=)", text, re.M) for name in line.split()}


def console_scripts(root: Path) -> set[str]:
    """The commands that setup.py installs."""
    text = (root / "setup.py").read_text(encoding="utf-8")
    listed = re.search(r"console_scripts\W*\[(.*?)\]", text, re.S)
    return set(re.findall(r"[\"']([\w-]+)=", listed[1])) if listed else set()


def climb_parser(root: Path) -> ArgumentParser | None:
    """The parser of `climb`, or None while there is none."""
    if root != ROOT:
        return None
    try:
        return importlib.import_module(f"{settings(root)['lib_name']}.climb").make_parser()
    except (ImportError, AttributeError):
        return None


def wrong_flags(parser: ArgumentParser, words: list[str], complete: bool) -> str:
    """Why `climb WORDS` is refused, or an empty string. A command that a sentence only names may leave out a value."""
    if words[:1] == ["predict"]:
        parser, words = importlib.import_module(f"{settings(ROOT)['lib_name']}.command").make_predict_parser(), words[1:]
    flags = [w.partition("=")[0] for w in words if w.startswith("-")]
    unknown = [f for f in flags if f not in parser._option_string_actions]
    if unknown:
        return f"it has no flag {unknown[0]}"
    if not complete:
        return ""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(words)
    except SystemExit as stop:
        return said.getvalue().strip().splitlines()[-1] if stop.code else ""
    return ""


def check_command(words: list[str], complete: bool, root: Path, parser: ArgumentParser | None) -> str:
    """What is wrong with one command, or an empty string."""
    name, rest = words[0], words[1:]
    if name == "make":
        wanted = [w for w in rest if not w.startswith("-") and "=" not in w]
        unknown = [w for w in wanted if w not in make_targets(root)]
        if unknown:
            return f"the Makefile has no target {unknown[0]}"
        passed_on = next((shlex.split(w[5:]) for w in rest if w.startswith("ARGS=")), [])
        return wrong_flags(parser, passed_on, complete) if parser and "climb" in wanted else ""
    if PYTHON.match(name):
        return _check_python(rest, complete, root, parser)
    if Path(name).name == "climb":
        if "climb" not in console_scripts(root):
            return "setup.py installs no command `climb`"
        return wrong_flags(parser, rest, complete) if parser else ""
    if name in EVERYWHERE or name in console_scripts(root):
        return ""
    base = re.split(r"[/\\]", name)[-1]
    if base in INSTALLED or base.startswith("nbdev_"):
        return "" if script(base) != base else f"{base} is not installed with the development requirements"
    if (root / name).is_file():
        return ""
    return f"nothing here is called {name}"


def _check_python(rest: list[str], complete: bool, root: Path, parser: ArgumentParser | None) -> str:
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-c"):
        rest = rest[1:]
    if not rest or rest[0] == "-c":
        return ""
    if rest[0] != "-m":
        return "" if (root / rest[0]).is_file() else f"there is no file {rest[0]}"
    module = rest[1] if len(rest) > 1 else ""
    lib = settings(root)["lib_name"]
    if module.split(".")[0] in (lib, "tools"):
        base = root / module.replace(".", "/")
        if not (base.with_suffix(".py").is_file() or (base / "__main__.py").is_file()):
            return f"there is no module {module}"
        return wrong_flags(parser, rest[2:], complete) if parser and module == f"{lib}.climb" else ""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    return "" if found else f"there is no module {module or '(none named)'}"


def check_commands(root: Path) -> list[str]:
    """README.md, CONTRIBUTING.md and every notebook."""
    parser = climb_parser(root)
    complaints = []
    if parser is None and root == ROOT:
        complaints.append("The module climb has no function make_parser, so its flags cannot be checked; export one.")
    complaints += [f"{page} is missing; write it." for page in PAGES if not (root / page).exists()]
    texts = [(page, (root / page).read_text(encoding="utf-8")) for page in PAGES if (root / page).exists()]
    texts += [(cell.where, cell.source) for notebook in notebooks(root) for cell in notebook.prose]
    for where, text in texts:
        for words, complete in shown_commands(text):
            wrong = check_command(words, complete, root, parser)
            if wrong:
                complaints.append(f"{where}: `{' '.join(words)}` does not work: {wrong}; correct the page or the command.")
    return complaints


if __name__ == "__main__":
    sys.exit("\n".join(check_commands(ROOT)) or 0)
