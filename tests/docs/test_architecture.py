"""docs/architecture.md: everything it names exists, and its contracts are those that are checked."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, dotted, quoted, resolve, section

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = {path.name: path for path in ROOT.glob("*/npu_*") if (path / "__init__.py").is_file()}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
DOTTED = dotted(TEXT)
PATHS = sorted({q for q in quoted(TEXT) if "/" in q and " " not in q})
MODULES = sorted({q.split()[2] for q in quoted(TEXT) if q.startswith("python -m ")})


def test_the_page_names_things():
    assert len(DOTTED) > 50
    assert len(PATHS) > 20
    assert MODULES


@pytest.mark.parametrize("name", [*DOTTED, *MODULES])
def test_name_exists(name):
    resolve(name)


@pytest.mark.parametrize("path", PATHS)
def test_path_exists(path):
    assert (ROOT / path).exists()


def test_short_names_stand_in_the_package_named_before_them():
    """`npu_compiler.qgraph`: `ir`, `verify` ... are modules of that package; the functions of a row are in it too."""
    checked = 0
    for row in section(TEXT, "To change X, touch Y").splitlines():
        package = ""
        for name in re.findall(r"`([^`]+)`", row):
            if re.fullmatch(r"npu_\w+(\.\w+)+", name):
                package = name
            elif re.fullmatch(r"[a-z_0-9]+", name):
                resolve(f"{package}.{name}")
                checked += 1
    assert checked > 10


def test_every_folder_of_the_packages_is_on_the_page():
    """Two levels: packages and their rooms; what is deeper is a room's own affair, unless it is named."""
    named = {Path(p) for p in PATHS}
    for package in PACKAGES.values():
        for init in package.glob("*/__init__.py"):
            folder = init.parent.relative_to(ROOT)
            assert any(folder == p or folder in p.parents for p in named), f"{folder} is not on the page"


def test_contracts_are_those_that_are_checked():
    listed = dict(
        re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\n\n)", section(TEXT, "What may import what"), re.M | re.S)
    )
    assert list(listed) == [c["name"] for c in CONTRACTS]
    for contract in CONTRACTS:
        text = " ".join(listed[contract["name"]].split())
        if contract["type"] == "layers":
            assert _layers(text) == [_short(layer) for layer in contract["layers"]], contract["name"]
        else:
            source, forbidden = text.split(" imports none of ")
            assert re.findall(r"`(.+?)`", source) == [_short(m) for m in contract["source_modules"]]
            assert re.findall(r"`(.+?)`", forbidden) == [_short(m) for m in contract["forbidden_modules"]]


def _layers(text: str) -> list[str]:
    return [" | ".join(re.findall(r"`(.+?)`", part)) for part in text.split(" > ")]


def _short(layer: str) -> str:
    """Return a layer without the package before its modules."""
    return " | ".join(part.split(".", 1)[-1] for part in layer.split(" | "))
