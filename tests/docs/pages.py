"""The pages as their tests read them: names and paths in backticks, tables, commands, blocks of Python, links."""

import re
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "isa_spec").glob("*.md")),
    key=lambda page: str(page.relative_to(ROOT)),
)
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """Return the page's path inside the repository: what a parametrized test is called."""
    return str(page.relative_to(ROOT))


def without_blocks(text: str) -> str:
    """Return a page's text without its fenced and indented blocks."""
    kept = [line for line in FENCED.sub("", text).splitlines() if not line.startswith("    ")]
    return "\n".join(kept)


def python_blocks(text: str) -> list[str]:
    """Return the blocks of Python of a page, in order."""
    return [body for kind, body in FENCED.findall(text) if kind == "python"]


def quoted(text: str) -> list[str]:
    """Return what stands in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def dotted(text: str) -> list[str]:
    """Return the names of packages, modules and their members that stand in backticks."""
    names = {q.partition("(")[0] for q in quoted(text)}
    return sorted(n for n in names if re.fullmatch(r"npu_(isa|sim|compiler|runtime)(\.\w+)*", n))


def resolve(name: str) -> object:
    """Return the module, or the member of one, of a dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def section(text: str, title: str) -> str:
    """Return what stands under the heading `## title`."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head)) for head in heads]
    return {head.lower().replace(" ", "-") for head in plain}


def commands(text: str, program: str) -> list[str]:
    """Return the calls of a program in the indented blocks and backticks of a page, continuation lines joined."""
    lines: list[str] = []
    for line in FENCED.sub("", text).splitlines():
        if line.startswith("    ") and lines and (lines[-1].endswith("\\") or line.startswith("        ")):
            lines[-1] = lines[-1].removesuffix("\\") + " " + line.strip()
        elif line.startswith("    "):
            lines.append(line.strip())
        else:
            lines += ["", *re.findall(r"`([^`\n]+)`", line)]
    return [line.split("#")[0].strip() for line in lines if line.startswith(program + " ")]
