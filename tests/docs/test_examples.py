"""The examples of the pages run, on a small network under the names that they use."""

import re
import runpy
import shlex

import numpy as np
import pytest
from npu_isa.file.container import load, to_bytes
from npu_runtime.cli import main
from npu_runtime.session.compiling import compile_file
from npu_runtime.session.session import Session

from tests.docs.pages import PAGES, ROOT, commands, name_of, python_blocks, section
from tests.onnx_models import Net, save

TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS[ROOT / "README.md"]
PAGES_WITH_PYTHON = [page for page in PAGES if python_blocks(TEXTS[page])]
SHAPE = (3, 8, 8)
CALLS = [shlex.split(c)[1:] for c in commands(section(README, "On your own model"), "npu") if len(c.split()) > 2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with a model of colour images, its data, and the binary that the README's call makes."""
    folder = tmp_path_factory.mktemp("example")
    net = Net(SHAPE)
    x = net.node("Relu", net.conv("x", 3, 16, (3, 3), pads=[1, 1, 1, 1]))
    x = net.node("Relu", net.conv(x, 16, 16, (3, 3), pads=[1, 1, 1, 1]))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    save(net.model(net.node("Gemm", x, net.weight(16, 10), net.weight(10))), folder, "resnet20.onnx")
    rng = np.random.default_rng(0)
    for name, count in (("train.npz", 8), ("test.npz", 6)):
        images = rng.integers(0, 256, (count, *SHAPE[1:], 3), np.uint8)
        np.savez(folder / name, images=images, labels=rng.integers(0, 10, count))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(CALLS[0]) == 0
    return folder


def run(block, folder, monkeypatch, **names):
    """Run a block of Python in a folder, with these names defined before it; return all names after it."""
    monkeypatch.chdir(folder)
    path = folder / "block.py"
    path.write_text(block, encoding="utf-8")
    return runpy.run_path(str(path), init_globals=names)


def test_readme_shows_the_three_commands():
    assert [call[0] for call in CALLS] == ["compile", "run", "report"]


def test_readme_python_and_command_line_agree(files, monkeypatch, capsys):
    """The same preprocessing, so the same binary, table and report: mean and std were once missing from the one."""
    (block,) = python_blocks(README)
    made = run(block, files, monkeypatch)
    printed = capsys.readouterr().out
    assert to_bytes(made["binary"]) == (files / "resnet20.npubin").read_bytes()
    assert made["binary"].input.mean == (0.485, 0.456, 0.406)
    for call in CALLS[1:]:
        assert main(call) == 0
        table = capsys.readouterr().out
        assert table.strip() in printed


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=name_of)
def test_python_of_the_page_runs(page, files, monkeypatch, capsys):
    import npu_runtime as npu

    binary = load(files / "resnet20.npubin")
    images = np.load(files / "test.npz")["images"]
    for block in python_blocks(TEXTS[page]):
        fewer = re.sub(r"range\(100\)", "range(1)", block)  # random programs: as many as a test has time for
        run(fewer, files, monkeypatch, npu=npu, binary=binary, session=Session(binary), images=images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/measured.md"])
def test_demo_table_is_up_to_date(name):
    """Cycles in 8 and in 4 bits throughout: they depend on no rounding of a float. `make demo` prints the table."""
    demo = ROOT / "tests" / "demo"
    session = Session(compile_file(demo / "digits.onnx", demo / "digits_train.npz").binary)
    rows = dict(re.findall(r"^ {4} *(\d+) +[\d.]+ .*?(\d+,\d{3}) ", TEXTS[ROOT / name], re.MULTILINE))
    for ratio in (0, 100):
        session.set_ratio(ratio)
        assert rows[str(ratio)] == f"{session.timing().total_cycles:,}"
