"""What `npu_runtime` declares: every name is there, on its page, and enough for a program of one's own."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import npu_runtime
import pytest
from npu_isa import errors
from npu_isa.errors import NpuError

from tests.docs.pages import python_blocks
from tests.runtime.conftest import DEMO

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
BLOCKS = python_blocks(PAGE)


def first_cells(page: str) -> list[str]:
    return [row.split("|")[1] for row in page.splitlines() if row.startswith("| ") and "`" in row.split("|")[1]]


def test_every_name_is_there_and_listed_before_it_is_used():
    assert dir(npu_runtime) == sorted(npu_runtime.__all__)
    for name in npu_runtime.__all__:
        assert callable(getattr(npu_runtime, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'sweep'"):
        _ = npu_runtime.sweep


def test_names_are_those_that_type_checkers_see():
    """The three lists of the package are one: __all__, the lazy homes, and the imports for type checkers."""
    tree = ast.parse(Path(npu_runtime.__file__).read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        seen |= {alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names}
    assert seen == npu_runtime._HOME
    assert sorted(seen) == sorted(npu_runtime.__all__)


def test_no_folder_hides_a_name():
    folders = {path.stem for path in Path(npu_runtime.__file__).parent.iterdir()}
    assert not folders & set(npu_runtime.__all__)


def test_importing_is_light():
    code = "import sys, npu_runtime; print(sorted({'numpy', 'numba', 'onnx', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("package", ["npu_isa", "npu_sim", "npu_compiler", "npu_runtime"])
def test_packages_carry_their_types(package):
    assert (Path(import_module(package).__file__).parent / "py.typed").is_file()


def test_page_names_exactly_what_there_is():
    names = re.findall(r"`(\w+)`", " ".join(first_cells(PAGE)))
    assert sorted(names) == sorted(npu_runtime.__all__)


def test_every_error_class_is_exported_and_on_its_page():
    classes = {v.__name__ for v in vars(errors).values() if isinstance(v, type) and issubclass(v, NpuError)}
    assert classes == {name for name in npu_runtime.__all__ if name.endswith("Error")}
    assert classes == set(re.findall(r"`(\w+)`", " ".join(first_cells(ERRORS))))
    for name in classes - {"NpuError"}:
        assert getattr(npu_runtime, name).__bases__ == (NpuError,)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run code of the page on the demo's network under the page's names; return the lines that it prints."""
    for name, source in (("resnet20.onnx", "digits.onnx"), ("train.npz", "digits_train.npz")):
        shutil.copy(DEMO / source, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def lines(block: str) -> list[str]:
        Path("block.py").write_text(block, encoding="utf-8")
        runpy.run_path("block.py")
        return capsys.readouterr().out.splitlines()

    return lines


def test_page_sweeps_machines(run):
    names, cycles = zip(*(line.split(" ", 1) for line in run(BLOCKS[0])), strict=True)
    assert names == ("weights1", "weights2", "weights4")
    slow, middle, fast = map(ast.literal_eval, cycles)
    assert slow[0] > middle[0] > fast[0]
    assert slow[1] > middle[1] > fast[1]


def test_page_catches_an_error(run):
    assert run(BLOCKS[1]) == [
        "npu23 cannot read the machine description: No such file or directory did you mean 'npu32'? "
        "shipped machines: npu16, npu32, npu128; or give the path of a TOML file"
    ]
    assert len(BLOCKS) == 2
