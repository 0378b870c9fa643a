"""Options of quantization come from their dataclass, and idle ones are refused; what else a call is answered with."""

import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from npu_compiler.options import QuantizeOptions, offered
from npu_compiler.qgraph import npuq
from npu_isa.errors import CompileError
from npu_runtime.cli import commands
from npu_runtime.cli.arguments import ratios
from npu_runtime.cli.main import COMMANDS, main, parser
from npu_runtime.cli.output import first_run_notice
from npu_runtime.cli.quantizing import model_arguments
from npu_runtime.reports.ablating import BASELINES, LADDER
from npu_runtime.session import compiling

from tests.runtime.conftest import DEMO

MODEL = [str(DEMO / "digits.onnx"), "--calibration", str(DEMO / "digits_train.npz")]
CALL = ["quantize", *MODEL, "-o", "x.npuq"]


def options(*args: str) -> QuantizeOptions:
    return model_arguments(parser().parse_args([*CALL, *args]))["options"]


def test_every_file_of_commands_is_registered():
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert {module.__name__.rpartition(".")[2] for module in COMMANDS} == files


# -- one list of options


def test_every_option_has_a_flag():
    assert {o.field for o in offered()} == {f.name for f in fields(QuantizeOptions)} - {"seconds"}  # --budget 60s
    assert options() == QuantizeOptions()


BESIDE = {"percentile": ("--method", "percentile"), "seed": ("--select", "random")}
BESIDE |= dict.fromkeys(("budget", "search-images"), ("--select", "evolutionary"))
VALUES = {"percentile": (99.5, "99.5"), "max_images": (7, "7"), "seed": (3, "3"), "generations": (2, "2")}
VALUES |= {"search_images": (5, "5")}


@pytest.mark.parametrize("option", offered(), ids=lambda o: o.field)
def test_every_flag_sets_its_field(option):
    flag, *beside = f"--{option.flag.name}", *BESIDE.get(option.flag.name, ())
    if option.kind is bool:
        given = [(not option.default, [])]
    elif get_origin(option.kind) is Literal:
        given = [(value, [value]) for value in get_args(option.kind)]
    else:
        value, text = VALUES[option.field]
        given = [(value, [text])]
    for value, texts in given:
        found = options(flag, *texts, *beside)
        assert getattr(found, option.field) == value
        side = {"rounding"} if option.field == "uniform" else set()
        side |= {"method"} if "--method" in beside else {"selection"} if beside else set()
        changed = {f.name for f in fields(found) if getattr(found, f.name) != f.default}
        assert changed <= {option.field} | side


def test_budget_in_seconds():
    assert options("--budget", "60s", "--select", "evolutionary").seconds == 60


def test_uniform_rounds_to_nearest_unless_told_otherwise():
    assert options("--uniform", "mse").rounding == "nearest"
    assert options("--uniform", "mse", "--rounding", "learned").rounding == "learned"
    assert options("--uniform", "none").rounding == "learned"


def test_ablate_offers_what_its_steps_do_not_set(capsys):
    set_by_steps = {name for step in (*BASELINES, *LADDER) for name in step.change}
    assert {o.field for o in offered() if o.flag.part} == set_by_steps
    assert main(["ablate", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in offered():
        assert (f"--{option.flag.name} " in shown or f"--{option.flag.name}\n" in shown) != option.flag.part


@pytest.mark.parametrize("command", ["quantize", "compile", "compare"])
def test_help_has_every_option_with_its_default(capsys, command):
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in offered():
        assert f"--{option.flag.name}" in shown
        if option.kind is not bool and option.field != "rounding":
            assert f"({option.default})" in shown


# -- options that do nothing


IDLE = [
    (["--percentile", "99"], "--percentile does nothing without --method percentile"),
    (["--percentile", "99", "--method", "mse"], "--percentile does nothing without --method percentile"),
    (["--seed", "0"], "--seed does nothing without --select random or evolutionary"),
    (["--budget", "0"], "--budget does nothing without --select evolutionary"),
    (["--search-images", "9", "--select", "random"], "--search-images does nothing without --select evolutionary"),
    (["--state", "s.json"], "--state does nothing without --select evolutionary"),
    (["--grouping", "none", "--uniform", "mse"], "--grouping does nothing with --uniform mse"),
    (["--plain-scales", "--uniform", "minmax"], "--plain-scales does nothing with --uniform minmax"),
    (["--extract", "static", "--uniform", "mse"], "--extract does nothing with --uniform mse"),
]


@pytest.mark.parametrize(("args", "text"), IDLE, ids=[" ".join(i[0]) for i in IDLE])
def test_idle_options_are_refused(capsys, tmp_path, monkeypatch, args, text):
    monkeypatch.chdir(tmp_path)
    assert main([*CALL, *args]) == 2
    assert capsys.readouterr() == ("", f"error: {text}\n  hint: see `npu quantize --help`\n")


def test_a_quantized_graph_takes_no_option_that_quantizes(capsys, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npuq.save(digits.quantized, "d.npuq")
    flags = [[f"--{o.flag.name}", *VALUES.get(o.field, ("", ""))[1:]] for o in offered() if o.field in VALUES]
    flags += [["--plain-scales"], ["--requantize"], ["--calibration", "x"], ["--mean", "0"], ["--npuq", "y.npuq"]]
    flags += [["--input-shape", "1,1,8,8"]]
    for args in flags:
        assert main(["compile", "d.npuq", "-o", "x.npubin", *args]) == 2
        text = f"error: {args[0]} does nothing with a .npuq, which is quantized already\n"
        assert capsys.readouterr().err == text + "  hint: see `npu compile --help`\n"


# -- types of arguments


def test_ratios_given_twice_are_tried_once():
    assert ratios("0,50,0,50.0,100,0") == (0, 50, 100)


WRONG = [
    ([*CALL, "--seed", "-1", "--select", "random"], 1, "seed -1 is out of range\n  hint: at least 0"),
    ([*CALL, "--max-images", "0"], 1, "max_images 0 is out of range\n  hint: at least 1"),
    (["verify", "--random", "1", "--seed", "-1"], 2, "argument --seed: -1 is below 0\n  hint: see `npu verify --help`"),
    (
        [*CALL, "--input-shape", "1,3,8"],
        2,
        "argument --input-shape: 1,3,8 is not four sizes: images, channels, height, width\n"
        "  hint: see `npu quantize --help`",
    ),
    (
        [*CALL, "--input-shape", "1,3,x,8"],
        2,
        "argument --input-shape: invalid sizes N,C,H,W value: '1,3,x,8'\n  hint: see `npu quantize --help`",
    ),
]


@pytest.mark.parametrize(("args", "code", "text"), WRONG, ids=[" ".join(w[0][-2:]) for w in WRONG])
def test_wrong_values(capsys, tmp_path, monkeypatch, args, code, text):
    monkeypatch.chdir(tmp_path)
    assert main(args) == code
    assert capsys.readouterr() == ("", f"error: {text}\n")


# -- before and after the work


class WorkedError(Exception):
    """The work began."""


def worked(*args, **kwargs):
    raise WorkedError


@pytest.mark.parametrize("command", ["compile", "quantize", "compare", "ablate"])
def test_input_shape_reaches_the_front_end(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def read(path, observe, **more):
        seen.update(more)
        raise WorkedError

    monkeypatch.setattr(compiling, "import_model", read)
    more = ["--data", MODEL[2]] if command == "ablate" else ["-o", "x"]
    with pytest.raises(WorkedError):
        main([command, *MODEL, *more, "--input-shape", "1,3,320,320"])
    assert seen["input_shape"] == (1, 3, 320, 320)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["compile", *MODEL, "-o", "x", "--hardware", "npu23"], "npu23: cannot read the machine description: "),
        (["compile", *MODEL, "-o", "x", "--extract", "dynamic"], "node block1.conv1: dynamic extraction: the machine"),
        (["compile", *MODEL[:2], "none.npz", "-o", "x"], "none.npz: no such file or folder"),
        (["compare", *MODEL, "--data", "none.npz"], "none.npz: no such file or folder"),
        (["compare", *MODEL, "--binary", "none.npubin"], "none.npubin: cannot read: No such file or directory"),
        (
            ["compare", *MODEL, "--extract", "dynamic"],
            "node block1.conv1: dynamic extraction: the machine npu32 has none",
        ),
        (["ablate", *MODEL, "--data", "none.npz"], "none.npz: no such file or folder"),
        (["quantize", *MODEL, "-o", "x", "--select", "evolutionary", "--state", "bad"], "bad: not the state of a sea"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_refused_before_quantizing(capsys, tmp_path, monkeypatch, command, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").write_text("{}")
    for place in ("npu_runtime.session.compiling", "npu_compiler.pipeline"):
        monkeypatch.setattr(f"{place}.quantize_graph", worked)
    monkeypatch.setattr("npu_compiler.pipeline.quantize", worked)
    assert main(command) == 1
    assert capsys.readouterr().err.startswith(f"error: {text}")


@pytest.mark.parametrize(
    ("keep", "way"),
    [
        ([], "--npuq FILE.npuq keeps the quantized graph, which `npu compile` tries on other machines at once"),
        (
            ["--npuq", "kept.npuq"],
            "the quantized graph is kept: `npu compile kept.npuq --hardware NAME|FILE` tries another machine",
        ),
    ],
    ids=["not kept", "kept"],
)
def test_a_machine_that_refuses_does_not_cost_the_quantization(capsys, digits, tmp_path, monkeypatch, keep, way):
    monkeypatch.chdir(tmp_path)

    def full(*args):
        raise CompileError("it does not fit", "machine small", "raise it")

    with monkeypatch.context() as patch:
        patch.setattr("npu_compiler.backend.link.compile_quantized", full)
        assert main(["compile", *MODEL, "--max-images", "64", "-o", "x.npubin", *keep]) == 1
    kept = "kept.npuq: the quantized graph\n" if keep else ""
    text = f"{kept}error: machine small: it does not fit\n  hint: raise it; {way}\n"
    assert capsys.readouterr() == ("", text)
    assert sorted(p.name for p in tmp_path.iterdir()) == keep[1:]
    if keep:
        assert npuq.to_bytes(npuq.load("kept.npuq")) == npuq.to_bytes(digits.quantized)


def test_notes_of_the_compiler_are_printed(capsys, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npuq.save(replace(digits.quantized, notes=("one image\x1b",)), "d.npuq")
    assert main(["compile", "d.npuq", "-o", "x.npubin"]) == 0
    assert capsys.readouterr().err.startswith("note: one image\\x1b\nx.npubin: ")


# -- streams


@pytest.mark.parametrize(
    "args", ["disasm {}", "inspect {}", "report {}", "hardware list", "hardware show npu16", "--help"]
)
def test_a_full_standard_output_is_one_error_line(digits_file, args):
    call = f"{sys.executable} -m npu_runtime.cli {args.format(digits_file)} > /dev/full"
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "error: standard output: cannot write: No space left on device\n  hint: send it elsewhere, or give -o\n",
    )


def test_a_terminal_without_the_characters_shows_their_codes():
    call = [sys.executable, "-m", "npu_runtime.cli", "hardware", "list"]
    done = subprocess.run(call, capture_output=True, check=True, env={"PYTHONIOENCODING": "ascii", **_python_path()})
    assert rb"\u2500" in done.stdout


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path)}


@pytest.mark.parametrize(
    ("error", "text"),
    [(MemoryError("Unable to allocate 9 GiB"), "Unable to allocate 9 GiB"), (MemoryError(), "none is left")],
    ids=["numpy", "bare"],
)
def test_memory_that_is_not_there_is_one_error_line(capsys, digits_file, monkeypatch, error, text):
    def load(path):
        raise error

    monkeypatch.setattr("npu_runtime.session.session.load", load)
    assert main(["report", str(digits_file)]) == 1
    hint = "take fewer or smaller images (--limit, --max-images), or a computer with more memory"
    assert capsys.readouterr() == ("", f"error: not enough memory: {text}\n  hint: {hint}\n")


NOTICE = "compiling kernels that are not in Numba's cache yet (up to a minute) ...\n"


def test_compiling_kernels_is_said_once(capsys):
    from numba.core import event

    with first_run_notice():
        assert capsys.readouterr().err == ""
        for _ in range(2):
            with event.trigger_event("numba:compile"):
                pass
    with event.trigger_event("numba:compile"):
        pass
    assert capsys.readouterr().err == NOTICE


@pytest.mark.slow
def test_kernels_are_looked_for_where_numba_keeps_them(digits_file, tmp_path):
    call = [sys.executable, "-m", "npu_runtime.cli", "report", str(digits_file)]
    env = {"NUMBA_CACHE_DIR": str(tmp_path), **_python_path()}
    said = [subprocess.run(call, capture_output=True, text=True, check=True, env=env).stderr for _ in range(2)]
    assert said == [NOTICE, ""]


# -- completion


def test_completion_needs_shtab(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 1
    text = "error: shtab, which makes the completion, is not installed\n  hint: pip install shtab\n"
    assert capsys.readouterr() == ("", text)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("npu co", {"compile", "compare"}),
        ("npu compile --sel", {"--select"}),
        ("npu compile --select gr", {"greedy"}),
        ("npu run dig", {"digits.npubin"}),
        ("npu hardware s", {"show"}),
    ],
)
def test_completion_in_bash(capsys, digits_file, tmp_path, words, found):
    pytest.importorskip("shtab", reason="an optional extra: pip install 'npu-stack[completion]'")
    assert main(["--print-completion", "bash"]) == 0
    (tmp_path / "npu.bash").write_text(capsys.readouterr().out)
    shutil.copy(digits_file, tmp_path / "digits.npubin")
    script = (
        f"source npu.bash; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); "
        '_shtab_npu npu "${COMP_WORDS[-1]}" "" 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(done.stdout.split()) == found
