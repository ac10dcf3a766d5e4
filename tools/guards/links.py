"""Internal links lead somewhere, and every address of the project is the one in settings.ini."""
from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from tools.course import files, load, settings, text_files

CODE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1\s*$|<!--.*?-->", re.S | re.M)
INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]^]+\]:\s*(\S+)", re.M)
HTML = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src)\s*=\s*[\"']([^\"']+)[\"']", re.I)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.M)
OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.I)


def targets(text: str) -> Iterator[str]:
    """Where the links and images of a piece of Markdown lead."""
    text = CODE.sub("", text)
    text = INLINE_CODE.sub("", text)
    for pattern in (LINK, REFERENCE, HTML):
        yield from pattern.findall(text)


def plain(heading: str) -> str:
    """A heading without its marks: links, code, emphasis, explicit identifiers."""
    heading = re.sub(r"\{[^}]*\}\s*$", "", heading)
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[`*]|<[^>]+>|\$", "", heading).strip()


def github_slug(heading: str) -> str:
    """The anchor GitHub gives a heading."""
    return re.sub(r" ", "-", re.sub(r"[^\w\- ]", "", plain(heading).lower()))


def quarto_slug(heading: str) -> str:
    """The anchor Quarto (pandoc) gives a heading: it starts at the first letter."""
    kept = re.sub(r"[^\w\-. ]", "", plain(heading).lower())
    return re.sub(r"^[^a-z\u00e0-\uffff]+", "", re.sub(r"\s+", "-", kept)) or "section"


def anchors(text: str, site: bool) -> set[str]:
    """The anchors of a page: explicit ones, and those of its headings on GitHub or (`site`) on the site."""
    found = set(re.findall(r"\{[^}\n]*#([\w:.-]+)[^}\n]*\}", text)) | set(re.findall(r"\b(?:id|name)=[\"']([^\"']+)[\"']", text))
    slug = quarto_slug if site else github_slug
    seen: dict[str, int] = {}
    for heading in HEADING.findall(CODE.sub("", text)):
        name = slug(heading)
        found.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return found


@lru_cache(maxsize=256)
def _page(path: Path, root: Path) -> str:
    if path.suffix == ".ipynb":
        return "\n\n".join(cell.source for cell in load(path, root).prose)
    return path.read_text(encoding="utf-8")


def broken(target: str, page: Path, root: Path) -> str:
    """Why a link of `page` leads nowhere, or an empty string."""
    if OTHER_SCHEME.match(target):
        return ""
    name, _, anchor = unquote(target).partition("#")
    goal = (page.parent / name).resolve() if name else page
    if name.startswith("/"):
        return "it begins with a slash; write it relative to the page"
    if not goal.exists():
        return f"there is no {name}"
    if not goal.is_relative_to(root.resolve()):
        return "it leads out of the repository"
    if anchor and goal.suffix in (".md", ".ipynb") and anchor not in anchors(_page(goal, root), site=goal.suffix == ".ipynb"):
        return f"{goal.name} has no heading with the anchor #{anchor}"
    return ""


def check_links(root: Path) -> list[str]:
    """Every relative link and image of every .md file and notebook."""
    root = root.resolve()
    _page.cache_clear()
    complaints = []
    for path in files(root):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".md":
            places = [(name, _page(path, root))]
        elif path.suffix == ".ipynb":
            places = [(cell.where, cell.source) for cell in load(path, root).prose]
        else:
            continue
        complaints += [
            f"{where}: the link {target} leads nowhere: {why}; correct it."
            for where, text in places
            for target in targets(text)
            if (why := broken(target, path, root))
        ]
    return complaints


GITHUB = re.compile(
    r"(?:github\.com[/:]|raw\.githubusercontent\.com/|colab\.research\.google\.com/github/|mybinder\.org/v2/gh/)"
    r"([\w.-]+)/([\w.-]*\w)((?:/[\w.%-]*\w)*)"
)
SITE = re.compile(r"([\w-]+)\.github\.io((?:/[\w.%-]*\w)*)")


def _same(a: str, b: str) -> bool:
    return a.lower().replace("-", "_") == b.lower().replace("-", "_")


def wrong_address(text: str, root: Path) -> Iterator[tuple[str, str]]:
    """Every address in a text that means this project and does not agree with settings.ini, and why."""
    cfg = settings(root)
    user, repo, branch = cfg["user"], cfg["repo"], cfg.get("branch", "main")
    for match in GITHUB.finditer(text):
        owner, name, rest = match[1], match[2].removesuffix(".git"), match[3].strip("/").split("/")
        if not (_same(name, repo) or _same(owner, user)):
            continue
        if (owner, name) != (user, repo):
            yield match[0], f"settings.ini says {user}/{repo}"
            continue
        raw = match[0].startswith("raw.")
        if raw or rest[0] in ("blob", "tree", "raw", "edit"):
            at, path = (rest[0], rest[1:]) if raw else (rest[1] if len(rest) > 1 else "", rest[2:])
            if at != branch:
                yield match[0], f"the branch is {branch}"
            elif path and not root.joinpath(*map(unquote, path)).exists():
                yield match[0], f"there is no {'/'.join(path)}"
        elif rest[:2] == ["actions", "workflows"] and len(rest) > 2 and not (root / ".github" / "workflows" / rest[2]).exists():
            yield match[0], f"there is no workflow {rest[2]}"
    for match in SITE.finditer(text):
        path = match[2].strip("/").split("/")
        if not (_same(match[1], user) or _same(path[0], repo)) or (match[1] == user and path == [""]):
            continue
        if (match[1], path[0]) != (user, repo):
            yield match[0], f"settings.ini says {user}.github.io/{repo}"
        elif path[-1].endswith(".html") and not (root / cfg["nbs_path"]).joinpath(*path[1:]).with_suffix(".ipynb").exists():
            yield match[0], f"no notebook becomes {path[-1]}"


def check_home(root: Path) -> list[str]:
    """Addresses of the project on GitHub, Colab and its site, in every text file but the tests, which hold wrong ones on purpose."""
    return [
        f"{name}: {address} is not an address of this project: {why}; correct it."
        for name, text in text_files(root)
        if not name.startswith("tests/")
        for address, why in wrong_address(text, root)
    ]
