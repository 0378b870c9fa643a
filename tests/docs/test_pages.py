"""The pages for readers: links lead somewhere, lines are short, calls are calls of the program, figures have one."""

import re
import shlex
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from npu_compiler.frontend.reader import OPERATORS
from npu_runtime.cli import main
from npu_sim.activity import CAUSES

from tests.docs.pages import FENCED, PAGES, ROOT, anchors, commands, dotted, name_of, quoted, resolve

GENERATED = ROOT / "isa_spec" / "ISA.md"  # tests/isa/test_reference.py: its text comes from isa.toml
WIDTH = 120
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")

pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_the_pages_are_found():
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "isa_spec/ISA.md"} <= {name_of(p) for p in PAGES}


@pages
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", TEXTS[page])):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(ROOT), f"{link}: outside of the repository"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


@pages
def test_prose_is_not_wide(page):
    """Tables and blocks may be wider."""
    if page == GENERATED:
        return
    for number, line in enumerate(FENCED.sub(lambda m: "\n" * m[0].count("\n"), TEXTS[page]).splitlines(), 1):
        assert len(line) <= WIDTH or line.startswith(("|", "    ")), f"line {number} has {len(line)} characters"


@pages
def test_files_that_are_named_exist(page):
    """A path in backticks is meant from the root, from isa_spec, or from the folder that holds the package."""
    roots = [ROOT, *(ROOT / name for name in ("isa_spec", "npu", "compiler", "runtime"))]
    for text in quoted(TEXTS[page]):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", text) and text.split("/")[0] in _top():
            assert any((root / text).exists() for root in roots), f"{text}: no such file"


@pages
def test_names_exist(page):
    for name in dotted(TEXTS[page]):
        resolve(name)


def _top() -> set[str]:
    """Return the names that a path of the repository may start with."""
    return {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} | {
        package.name for package in ROOT.glob("*/npu_*")
    }


@pages
def test_commands_have_the_options_they_are_called_with(page, capsys):
    for call in commands(TEXTS[page], "npu"):
        words = _words(call)
        if not words or not re.fullmatch("[a-z]+", words[0]):
            continue  # a placeholder
        known = _options(capsys, words[0])
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", call):
            assert option in known, f"npu {words[0]} has no {option}: {call}"


def _words(call: str) -> list[str]:
    with suppress(ValueError):  # a quotation mark of prose
        return shlex.split(call)[1:]
    return []


def _options(capsys: pytest.CaptureFixture[str], command: str) -> set[str]:
    assert main([command, "--help"]) == 0, f"no command npu {command}"
    return set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))


@pages
def test_modules_that_are_run_exist_and_have_the_options(page):
    for call in commands(TEXTS[page], "python"):
        words = _words(call)
        if words[:1] != ["-m"]:
            continue
        spec = find_spec(words[1])
        assert spec is not None, f"no module {words[1]}"
        source = Path(str(spec.origin)).read_text(encoding="utf-8")
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", call):
            assert f'"{option}"' in source, f"{words[1]} has no {option}"


def test_measured_page_has_a_command_for_every_table():
    """Between two headings with a table stands the command that made it."""
    text = TEXTS[ROOT / "docs" / "measured.md"]
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        if "\n| " in part or "\n    " in part:
            assert commands(part, "python") or commands(part, "npu") or commands(part, "make"), part.splitlines()[0]


def test_every_operator_is_on_the_page():
    text = TEXTS[ROOT / "docs" / "operators.md"]
    for name in OPERATORS:
        assert re.search(rf"\b{name}\b", text), name


def test_every_cause_is_on_the_page():
    text = TEXTS[ROOT / "docs" / "cycles.md"]
    named = re.findall(r"`(\w+)`", "".join(line for line in text.splitlines() if line.startswith("| `")))
    assert sorted(named) == sorted(CAUSES)
