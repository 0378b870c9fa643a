"""What each command of the command line does: parsed arguments in, one public call, text out."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_isa.errors import DataError
from npu_isa.file.container import load, save, write_whole
from npu_isa.machine.config import SHIPPED, load_machine, machine_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_compiler.backend.link import Observe
    from npu_compiler.lowering.evolve import State
    from npu_isa.file.binary import Binary

    from npu_runtime.reports.evaluating import RunReport
    from npu_runtime.reports.tables import Table
    from npu_runtime.session.session import Session

COMPARE_SCHEMA = "npu.compare/1"
VERIFY_RATIOS = (0, 25, 50, 75, 100)
INTERRUPTED = 130  # the exit code
LADDER_SETS = ("select", "extract", "positions", "grouping", "rounding", "bias_correction", "uniform", "plain_scales")
QUANTIZE = (
    *("calibration", "pixel_scale", "mean", "std", "resize", "crop", "preprocess", "requantize"),
    *("method", "percentile", "max_images", "seed", "budget", "search_images"),
    *("lower_first", "lower_last", "lower_small", *LADDER_SETS),
)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _put(text: str, output: str | None) -> None:
    """Print a result, or write it to a file, whole or not at all."""
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_whole(output, text.encode())


def _put_result(result: "RunReport | Table", args: argparse.Namespace, more: str = "") -> None:
    """Print a result in the format asked for, and text after it."""
    made = {"table": result.to_text, "json": result.to_json, "csv": result.to_csv}
    _put(made[args.format]() + more, args.output)


def _session(path: str) -> "Session":
    from npu_runtime.session.session import Session

    return Session(path, notify=_note)


@contextmanager
def _progress(title: str, total: int | None) -> "Iterator[Callable[..., None]]":
    """Show a progress bar on a terminal's stderr; yields the function that moves it: (steps, text)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps, text=title: bar.update(task, advance=steps, description=text)


# -- compile


def _refuse(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """End with a wrong call where an option is given that would do nothing."""
    for name in names:
        if getattr(args, name, None):
            args.parser.error(f"--{name.replace('_', '-')} does nothing {reason}")


def _refuse_idle(args: argparse.Namespace) -> None:
    """Refuse options that do nothing beside the others given."""
    if args.method != "percentile":
        _refuse(args, ("percentile",), "without --method percentile")
    if args.uniform not in (None, "none"):
        _refuse(args, ("extract", "positions", "grouping", "plain_scales"), "with --uniform, which replaces it")
    if args.command != "ablate" and args.select != "evolutionary":
        _refuse(args, ("budget", "search_images", "state"), "without --select evolutionary")
        if args.select != "random":
            _refuse(args, ("seed",), "without --select random or evolutionary")


def _model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `quantize_file` and `compile_file` that they share."""
    from npu_compiler.options import QuantizeOptions

    from npu_runtime.data.dataset import preprocess_options

    if args.calibration is None:
        args.parser.error("an ONNX model needs --calibration DATA")
    _refuse_idle(args)
    given = {k: getattr(args, k) for k in ("pixel_scale", "mean", "std", "resize", "crop")}
    names = (
        *("method", "percentile", "max_images", "extract", "positions", "grouping", "rounding"),
        *("bias_correction", "uniform", "seed", "search_images"),
    )
    chosen = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    if args.uniform not in (None, "none"):
        chosen.setdefault("rounding", "nearest")
    if args.select is not None:
        chosen["selection"] = args.select
    options = QuantizeOptions(
        aligned=not args.plain_scales,
        keep_first_8bit=not args.lower_first,
        keep_last_8bit=not args.lower_last,
        keep_small_8bit=not args.lower_small,
        **chosen,
        **(args.budget or {}),
    )
    return {
        "model": args.model,
        "calibration": args.calibration,
        "preprocess": preprocess_options(args.preprocess, given),
        "options": options,
        "requantize": args.requantize,
    }


def quantize_command(args: argparse.Namespace) -> int:
    """Quantize an ONNX model."""
    from npu_compiler.lowering.evolve import RATIOS, Progress, State
    from npu_compiler.qgraph import npuq

    from npu_runtime.session.compiling import quantize_file

    arguments = _model_arguments(args)
    options = arguments["options"]
    state = State(options.seed) if args.state is None else _search_state(args.state, options.seed)
    with _progress("search", len(RATIOS) * options.generations if options.seconds is None else None) as bar:

        def observe(found: Progress) -> None:
            if args.state is not None:
                write_whole(args.state, state.to_json().encode())
            bar(1, f"{found.ratio} %: distance {found.best:,.4g}, greedy {found.greedy:,.4g}")

        _, graph = quantize_file(**arguments, state=state, progress=observe)
    npuq.save(graph, args.output)
    groups = sum(graph.tensors[n.src].groups for n in graph.lowerable)
    _note(f"{args.output}: {len(graph.lowerable)} layers of {groups} groups can run in 4 bits")
    return 0


def explain_command(args: argparse.Namespace) -> int:
    """Explain what the quantizer found and chose."""
    from npu_compiler.qgraph import npuq

    from npu_runtime.reports.choices import explain_groups, explain_layers
    from npu_runtime.reports.folder import make_folder

    graph = npuq.load(args.model)
    table = explain_layers(graph) if args.layer is None else explain_groups(graph, args.layer)
    _put_result(table, args)
    if args.plots is not None:
        from npu_runtime.reports.plots import extraction_plot, unused_bits_plot

        folder = make_folder(args.plots)
        write_whole(folder / "unused_bits.svg", unused_bits_plot(graph))
        write_whole(folder / "extraction.svg", extraction_plot(explain_layers(graph)))
        _note(f"plots: {folder}")
    return 0


def ablate_command(args: argparse.Namespace) -> int:
    """Measure what each part of the method gives."""
    from npu_compiler.pipeline import import_model

    from npu_runtime.reports.ablating import ablate
    from npu_runtime.session.compiling import load_calibration

    if len(args.ratio) != 1:
        args.parser.error("--ratio: one percentage")
    _refuse(args, LADDER_SETS, "here: the steps of the ladder set it")
    given = _model_arguments(args)
    graph = import_model(args.model, requantize=args.requantize)
    calibration, pre = load_calibration(graph, args.calibration, given["preprocess"], given["options"].max_images)
    data, _ = load_calibration(graph, args.data, given["preprocess"], args.limit)
    table = ablate(graph, calibration, data, pre, args.ratio[0], given["options"], _note)
    _put_result(table, args)
    if args.plot is not None:
        from npu_runtime.reports.plots import ablation_plot

        write_whole(args.plot, ablation_plot(table))
    return 0


def _search_state(path: str, seed: int) -> "State":
    from npu_compiler.lowering.evolve import State, state_from_json

    if not Path(path).exists():
        return State(seed)
    try:
        state = state_from_json(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read: {error}", path, "give another --state") from None
    if state.seed != seed:
        raise DataError(
            f"the search was begun with --seed {state.seed}, not {seed}", path, "give that seed, or another --state"
        )
    return state


def _compile(args: argparse.Namespace, observe: "Observe") -> "Binary":
    """Compile an ONNX model, or a quantized graph."""
    from npu_compiler.backend.link import compile_quantized
    from npu_compiler.qgraph import npuq

    from npu_runtime.session.compiling import compile_file

    if args.model.endswith(".npuq"):
        _refuse(args, QUANTIZE, "with a .npuq, which is quantized already")
        return compile_quantized(npuq.load(args.model), load_machine(args.hardware), observe)
    return compile_file(**_model_arguments(args), hardware=args.hardware, observe=observe).binary


def compile_command(args: argparse.Namespace) -> int:
    """Compile an ONNX model."""
    from npu_compiler.pipeline import STAGES

    stages = (*STAGES, "program")
    if args.model.endswith(".npuq"):
        stages = stages[stages.index("schedule") :]
    wanted = stages if args.print_after == ("all",) else args.print_after
    unknown = [s for s in wanted if s not in stages]
    if unknown:
        args.parser.error(f"--print-after: no stage {unknown[0]!r}; stages: {', '.join(stages)}, or all")
    if args.output is None and not wanted:
        args.parser.error("give -o FILE.npubin, or --print-after STAGE")

    def observe(stage: str, text: "Callable[[], str]") -> None:
        if stage in wanted:
            sys.stdout.write(f"# after {stage}\n{text()}")

    binary = _compile(args, observe)
    if "program" in wanted:
        from npu_isa.asm.disasm import disassemble

        observe("program", lambda: disassemble(binary, data=False))
    if args.output is not None:
        save(binary, args.output)
        dials = sum(layer.has_dial for layer in binary.layers)
        _note(
            f"{args.output}: {len(binary.layers)} layers ({dials} with a dial, {len(binary.dial)} steps), "
            f"{len(binary.code)} instructions, {len(binary.constants):,} bytes of constants for {binary.machine.name}"
        )
    return 0


# -- run and report


def run_command(args: argparse.Namespace) -> int:
    """Evaluate a binary at several ratios."""
    from npu_runtime.data.dataset import Geometry, load_dataset
    from npu_runtime.reports.evaluating import evaluate

    session = _session(args.binary)
    info = session.binary.input
    dataset = None
    if args.data is not None:
        dataset = load_dataset(args.data, Geometry(info.resize, info.crop), args.limit, info.channels)
    elif args.limit is not None:
        raise DataError("--limit takes the first images of a data set", hint="give --data")
    total = 0 if dataset is None else len(dataset) * len(args.ratio)
    with _progress("images", total) as progress:
        runs = evaluate(session, dataset, args.ratio, progress)
    _put_result(runs, args)
    if args.report is not None:
        from npu_runtime.reports.folder import write_report

        _note(f"report: {write_report(args.report, session, runs)}")
    return 0


def report_command(args: argparse.Namespace) -> int:
    """Print a cycle report at one ratio."""
    from npu_runtime.reports.cycles import report
    from npu_runtime.reports.explain import where_it_went

    if len(args.ratio) != 1:
        args.parser.error("--ratio: one percentage")
    session = _session(args.binary)
    session.set_ratio(args.ratio[0])
    explained = args.format == "table" and args.by != "instruction"
    _put_result(report(session, args.by), args, "\n" + where_it_went(session) if explained else "")
    return 0


# -- compare


def compare_command(args: argparse.Namespace) -> int:
    """Compare golden model and simulator; 1 if any value differs."""
    from dataclasses import asdict

    from npu_runtime.data.dataset import Geometry, load_dataset
    from npu_runtime.reports.tables import Table
    from npu_runtime.session.compiling import compile_file
    from npu_runtime.session.provenance import provenance
    from npu_runtime.session.session import Session
    from npu_runtime.verification.comparing import compare

    compiled = compile_file(**_model_arguments(args), hardware=args.hardware)
    session = Session(compiled.binary if args.binary is None else load(args.binary), notify=_note)
    info = session.binary.input
    path = args.calibration if args.data is None else args.data
    images = load_dataset(path, Geometry(info.resize, info.crop), args.limit, info.channels).images
    rows: list[dict[str, Any]] = []
    first = None
    for ratio in args.ratio:
        session.set_ratio(ratio)
        for layer in compare(compiled.quantized, session, images, compiled.graph):
            rows.append(
                {"ratio_percent": ratio, **asdict(layer), "first": "" if layer.first is None else str(layer.first)}
            )
            first = first or layer.first
    table = Table(COMPARE_SCHEMA, provenance(session) | {"images": str(len(images))}, tuple(rows), hidden=("first",))
    values, differing = (sum(r[k] for r in rows) for k in ("values", "differing"))
    total = f"\n{values:,} values of {len(images)} images at {len(args.ratio)} ratios: {differing:,} differ\n"
    _put_result(table, args, total if args.format == "table" else "")
    if first is not None:
        _note(f"first difference: {first}")
    return int(first is not None)


def verify_command(args: argparse.Namespace) -> int:
    """Run a binary or random programs on several models of the machine and compare; 1 if anything differs."""
    if (args.binary is None) == (args.random is None):
        args.parser.error("give FILE.npubin, or --random N")
    if len(set(args.models)) < 2 and args.models != ("rtl",) and args.quantized is None:
        args.parser.error("--models: two models at least, one alone compares nothing")
    if args.random is not None:
        _refuse(args, ("quantized", "ratio", "layers", "vcd", "data", "limit"), "with --random")
        return _verify_random(args)
    _refuse(args, ("seed", "hardware", "jobs"), "without --random")
    return _verify_binary(args)


def _verify_binary(args: argparse.Namespace) -> int:
    from npu_compiler.qgraph import npuq

    from npu_runtime.data.dataset import Geometry, load_dataset
    from npu_runtime.verification.models import models_named, rtl
    from npu_runtime.verification.verify import verify

    session = _session(args.binary)
    binary, info = session.binary, session.binary.input
    graph = None if args.quantized is None else npuq.load(args.quantized)
    names = [*args.models, *(["golden"] if graph is not None and "golden" not in args.models else [])]
    if "golden" in names:
        _refuse(args, ("layers",), "with the golden model, which knows no instructions")
    images, count = None, 1
    if args.data is None:
        _refuse(args, ("limit",), "without --data")
    else:
        pixels = load_dataset(args.data, Geometry(info.resize, info.crop), args.limit or 1, info.channels).images
        images, count = session.prepare(pixels).reshape(len(pixels), -1), len(pixels)
    vectors = [binary.boundaries_at(r) for r in args.ratio or VERIFY_RATIOS]
    models = models_named(names, graph)
    if args.vcd is not None:
        if "rtl" not in models or len(vectors) * count != 1:
            args.parser.error("--vcd: one waveform, of rtl among --models at one --ratio with one image")
        models["rtl"] = partial(rtl, vcd=Path(args.vcd))
    with _progress("runs", len(vectors) * count) as progress:
        report = verify(binary, vectors, models, images, graph, args.layers, progress)
    _put(f"{report}\n", args.output)
    return int(report.difference is not None)


def _verify_random(args: argparse.Namespace) -> int:
    from npu_runtime.verification.randomly import verify_random
    from npu_runtime.verification.verify import VerifyReport

    machine = None if args.hardware is None else load_machine(args.hardware)
    seeds = range(args.seed or 0, (args.seed or 0) + args.random)
    total, done, code, last = VerifyReport(), 0, 0, seeds[0]
    with _progress("programs", args.random) as progress:
        try:
            for seed, report in verify_random(seeds, args.models, machine, jobs=args.jobs or 1):
                total, done, last = total + report, done + 1, seed
                progress(1)
                if report.difference is not None:
                    code = 1
                    break
        except KeyboardInterrupt:
            code = INTERRUPTED
    text = f"{done} programs from seed {seeds[0]}{', interrupted' * (code == INTERRUPTED)}: {total}\n"
    if code == 1:
        options = [f"--models {','.join(args.models)}", *([f"--hardware {args.hardware}"] if args.hardware else [])]
        text += f"seed {last}; again with: npu verify --random 1 --seed {last} {' '.join(options)}\n"
    _put(text, args.output)
    return code


# -- binaries and machines


def disasm_command(args: argparse.Namespace) -> int:
    """Print a binary as assembly."""
    from npu_isa.asm.disasm import disassemble

    _put(disassemble(load(args.binary)), args.output)
    return 0


def asm_command(args: argparse.Namespace) -> int:
    """Assemble a program, check it and write the binary."""
    from npu_isa.asm.assemble import assemble
    from npu_isa.check.program import check_binary

    try:
        text = sys.stdin.read() if args.source == "-" else Path(args.source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(
            f"cannot read: {reason}", args.source, "give an assembly file, as `npu disasm` writes it"
        ) from None
    binary = assemble(text, args.source)
    check_binary(binary)
    save(binary, args.output)
    return 0


def inspect_command(args: argparse.Namespace) -> int:
    """Summarize a binary and check it; 1 if the program is wrong."""
    from npu_runtime.reports.inspecting import summary

    binary = load(args.binary)
    text, fault = summary(binary, Path(args.binary).stat().st_size)
    _put(text, None)
    if fault is not None:
        raise fault
    return 0


def hardware_list_command(args: argparse.Namespace) -> int:
    """List the shipped machines."""
    from npu_runtime.reports.tables import text_table

    rows = []
    for name in SHIPPED:
        m = load_machine(name)
        rows.append(
            {
                "name": name,
                "array": f"{m.array_rows}x{m.array_cols}",
                "int8 / int4 GMAC/s": f"{m.array_rows * m.array_cols * m.clock_hz / 1e9:,.0f} / "
                f"{2 * m.array_rows * m.array_cols * m.clock_hz / 1e9:,.0f}",
                "activations KiB": 4 * m.act_region_bytes // 1024,
                "weights KiB": m.weight_memory_bytes // 1024,
                "DRAM B/cycle": m.dram_bytes_per_cycle,
                "clock MHz": round(m.clock_hz / 1e6),
            }
        )
    _put(text_table(rows), None)
    return 0


def hardware_show_command(args: argparse.Namespace) -> int:
    """Print a machine as TOML."""
    load_machine(args.name)
    _put(machine_text(args.name), None)
    return 0


def hardware_check_command(args: argparse.Namespace) -> int:
    """Check a machine description."""
    machine = load_machine(args.file)
    _put(f"{args.file}: {machine.name} is consistent (hash {machine.hash()[:16]})\n", None)
    return 0
