"""Inputs survive every call, and what cannot be read or written is refused before any work."""

import argparse
import os
from pathlib import Path

import pytest
from npu_isa.file.container import MAGIC
from npu_runtime.cli.completion import PATHS
from npu_runtime.cli.main import main, parser
from npu_runtime.cli.paths import InputPath, OutputFile, OutputFolder, check_paths

NOT_WRITTEN = "give the output another path; nothing was written"
APART = "give each a place of its own"
FOLDER = "give a path in a writable folder"
MODEL = "m.onnx --calibration d.npz"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file of each kind and links to them; no file is looked at closer than by its first bytes."""
    monkeypatch.chdir(tmp_path)
    for name in ("m.onnx", "d.npz", "t.npz", "p.toml", "h.toml", "q.npuq", "s.s"):
        Path(name).write_text(f"this is {name}")
    Path("b.npubin").write_bytes(MAGIC + b"...")
    Path("photos").mkdir()
    Path("photos/labels.csv").write_text("file,label\n0.png,1\nsub/1.png,2\n")
    for name in ("0.png", "other.txt"):
        (Path("photos") / name).write_text(name)
    os.symlink("m.onnx", "soft.onnx")
    os.link("m.onnx", "hard.onnx")
    os.symlink("d.npz", "plot.svg")
    os.symlink("photos", "album")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def walk(of: argparse.ArgumentParser):
    """Yield (command, action) of a parser and those inside it."""
    for action in of._actions:
        yield of.prog, action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from walk(inner)


def test_every_path_says_whether_it_is_read_or_written():
    """The check goes by the types of arguments: no command can forget one."""
    found = [(prog, a) for prog, a in walk(parser()) if isinstance(a.metavar, str) and PATHS.search(a.metavar)]
    assert len(found) > 40
    for prog, action in found:
        assert isinstance(action.type("x.svg"), InputPath | OutputFile | OutputFolder), (prog, action.dest)
    for prog, action in walk(parser()):
        if action.dest in ("output", "report", "plots", "plot", "vcd", "state", "npuq") and action.option_strings:
            assert isinstance(action.type("x.svg"), OutputFile | OutputFolder), (prog, action.dest)


DESTROYS = [
    (f"quantize {MODEL} -o m.onnx", "m.onnx: this output is the input m.onnx"),
    (f"quantize {MODEL} -o d.npz", "d.npz: this output is the input d.npz"),
    (f"quantize {MODEL} --select evolutionary --state m.onnx -o x", "m.onnx: this output is the input m.onnx"),
    (f"quantize {MODEL} --preprocess p.toml -o p.toml", "p.toml: this output is the input p.toml"),
    (f"compile {MODEL} -o ./photos/../m.onnx", "./photos/../m.onnx: this output is the input m.onnx"),
    (f"compile {MODEL} -o soft.onnx", "soft.onnx: this output is the input m.onnx"),
    (f"compile {MODEL} -o hard.onnx", "hard.onnx: this output is the input m.onnx"),
    ("compile soft.onnx --calibration d.npz -o hard.onnx", "hard.onnx: this output is the input soft.onnx"),
    (f"compile {MODEL} --hardware h.toml -o h.toml", "h.toml: this output is the input h.toml"),
    (f"compile {MODEL} --npuq d.npz -o x", "d.npz: this output is the input d.npz"),
    (
        "compile m.onnx --calibration photos -o photos/0.png",
        "photos/0.png: this output is a file of the data set photos",
    ),
    ("compile q.npuq -o q.npuq", "q.npuq: this output is the input q.npuq"),
    ("explain q.npuq -o q.npuq", "q.npuq: this output is the input q.npuq"),
    ("explain q.npuq --plots .", ".: this output folder holds the input q.npuq"),
    (f"ablate {MODEL} --data t.npz -o t.npz", "t.npz: this output is the input t.npz"),
    (f"ablate {MODEL} --data t.npz --plot plot.svg", "plot.svg: this output is the input d.npz"),
    ("run b.npubin -o b.npubin", "b.npubin: this output is the input b.npubin"),
    ("run b.npubin --data d.npz -o d.npz", "d.npz: this output is the input d.npz"),
    (
        "run b.npubin --data photos -o album/labels.csv",
        "album/labels.csv: this output is a file of the data set photos",
    ),
    ("run b.npubin --report .", ".: this output folder holds the input b.npubin"),
    ("run b.npubin --report ..", "..: this output folder holds the input b.npubin"),
    ("run b.npubin --report b.npubin", "b.npubin: this output folder holds the input b.npubin"),
    ("run b.npubin --data photos --report album", "album: this output folder holds the input photos"),
    ("report b.npubin -o b.npubin", "b.npubin: this output is the input b.npubin"),
    (f"compare {MODEL} --binary b.npubin -o b.npubin", "b.npubin: this output is the input b.npubin"),
    ("verify b.npubin --vcd b.npubin", "b.npubin: this output is the input b.npubin"),
    ("verify b.npubin --quantized q.npuq -o q.npuq", "q.npuq: this output is the input q.npuq"),
    ("verify --random 1 --hardware h.toml -o h.toml", "h.toml: this output is the input h.toml"),
    ("disasm b.npubin -o b.npubin", "b.npubin: this output is the input b.npubin"),
    ("asm s.s -o s.s", "s.s: this output is the input s.s"),
]
COLLIDE = [
    (f"compile {MODEL} --npuq x.npubin -o ./x.npubin", "x.npubin: this output is the output ./x.npubin too"),
    (f"quantize {MODEL} --select evolutionary --state x -o x", "x: this output is the output x too"),
    ("run b.npubin --report rep -o rep/runs.csv", "rep/runs.csv: this output lies in the output folder rep"),
    ("verify b.npubin --vcd x.vcd -o x.vcd", "x.vcd: this output is the output x.vcd too"),
]
NO_PLACE = [
    (f"compile {MODEL} -o none/x.npubin", "none/x.npubin: cannot write: No such file or directory"),
    (f"compile {MODEL} -o photos", "photos: cannot write: Is a directory"),
    (f"compile {MODEL} -o t.npz/x.npubin", "t.npz/x.npubin: cannot write: Not a directory"),
    (f"compile {MODEL} --npuq none/x.npuq -o x", "none/x.npuq: cannot write: No such file or directory"),
    (f"quantize {MODEL} --select evolutionary --state . -o x", ".: cannot write: Is a directory"),
    ("run b.npubin --report t.npz", "t.npz: cannot write: Not a directory"),
    ("run b.npubin --report t.npz/rep", "t.npz/rep: cannot write: Not a directory"),
    (f"run b.npubin -o {'x' * 250}", f"{'x' * 250}: cannot write: File name too long"),  # with what is added to it
    (f"run b.npubin -o {'x' * 300}", f"{'x' * 300}: cannot write: File name too long"),
]
BINARY = "`npu run`, `report`, `verify`, `inspect` and `disasm` take it; `npu compile` takes .onnx or .npuq"
ONNX = "`npu compile` makes a binary of a model, `npu quantize` a quantized graph"
NPUQ = "`npu compile` makes a binary of it, `npu explain` says what is in it"
FILE = "give the path of the file"
OTHERS = [
    (
        "compile b.npubin",
        "b.npubin: is a compiled binary (.npubin), not an ONNX model or a quantized graph (.npuq)",
        BINARY,
    ),
    ("run m.onnx", "m.onnx: is an ONNX model, not a compiled binary (.npubin)", ONNX),
    ("run q.npuq", "q.npuq: is a quantized graph (.npuq), not a compiled binary (.npubin)", NPUQ),
    ("quantize q.npuq -o x", "q.npuq: is a quantized graph (.npuq), not an ONNX model", NPUQ),
    ("explain b.npubin", "b.npubin: is a compiled binary (.npubin), not a quantized graph (.npuq)", BINARY),
    ("compile m.onnx --calibration m.onnx -o x", "m.onnx: is an ONNX model, not a data set", ONNX),
    ("asm b.npubin -o x", "b.npubin: is a compiled binary (.npubin), not an assembly file", BINARY),
    ("hardware check b.npubin", "b.npubin: is a compiled binary (.npubin), not a TOML file", BINARY),
    ("compile photos", "photos: is a folder, not an ONNX model or a quantized graph (.npuq)", FILE),
    ("run photos", "photos: is a folder, not a compiled binary (.npubin)", FILE),
    ("asm photos -o x", "photos: is a folder, not an assembly file", FILE),
    ("hardware show photos", "photos: is a folder, not a TOML file", FILE),
    (f"compile {MODEL} --preprocess photos -o x", "photos: is a folder, not a TOML file", FILE),
]
CASES = [
    *((call, text, NOT_WRITTEN) for call, text in DESTROYS),
    *((call, text, APART) for call, text in COLLIDE),
    *((call, text, FOLDER) for call, text in NO_PLACE),
    *OTHERS,
]


@pytest.mark.parametrize(("call", "text", "hint"), CASES, ids=[c[0][:60] for c in CASES])
def test_refused(folder, capsys, call, text, hint):
    before = contents(folder)
    assert main(call.split()) == 1
    assert capsys.readouterr() == ("", f"error: {text}\n  hint: {hint}\n")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "call",
    [
        "run b.npubin --data photos -o photos/new.txt",
        "run b.npubin --data photos -o photos/other.txt",  # labels.csv does not name it
        "run b.npubin --data photos --report photos/report",
        "run b.npubin --report new/deep/report -o /dev/null",
        "verify b.npubin --vcd /dev/null -o /dev/null",
        "asm - -o x.npubin",
        "hardware show npu32",
        f"quantize {MODEL} --select evolutionary --state s.json -o x.npuq",
    ],
)
def test_accepted(folder, call):
    Path("npu32").mkdir()  # a folder called like a machine: the machine is meant
    before = contents(folder)
    check_paths(parser().parse_args(call.split()))
    assert contents(folder) == before
    assert not Path("new").exists()


def test_a_folder_without_permission_is_refused_before_the_work(folder, capsys, monkeypatch):
    def refuse(**place):  # root may write anywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert main(["compile", *MODEL.split(), "-o", "x.npubin"]) == 1
    assert capsys.readouterr().err == f"error: x.npubin: cannot write: Permission denied\n  hint: {FOLDER}\n"


def test_a_file_is_known_by_its_first_bytes(folder, capsys):
    os.rename("b.npubin", "b.bin")
    assert main(["compile", "b.bin"]) == 1
    assert capsys.readouterr().err.startswith("error: b.bin: is a compiled binary (.npubin), not an ONNX model")


def test_a_pipe_is_left_to_its_reader(folder):
    """What is read from a pipe is gone: looking at its first bytes would take them."""
    reading, writing = os.pipe()
    os.write(writing, b"mean = [0.5]")
    os.close(writing)
    check_paths(parser().parse_args([*f"quantize {MODEL} --preprocess /dev/fd/{reading} -o x.npuq".split()]))
    assert os.read(reading, 100) == b"mean = [0.5]"
    os.close(reading)
