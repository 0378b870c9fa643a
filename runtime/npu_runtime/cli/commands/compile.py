"""npu compile: model to NPU binary."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from npu_isa.errors import CompileError, UnsupportedError
from npu_isa.file.container import save
from npu_isa.machine.config import MachineConfig, load_machine

from npu_runtime.cli.arguments import Subparsers, add_command, add_hardware, names, refuse
from npu_runtime.cli.output import first_run_notice, note, put, put_host, put_notes
from npu_runtime.cli.paths import OutputFile
from npu_runtime.cli.quantizing import add_model, is_quantized, model_arguments

if TYPE_CHECKING:
    from npu_compiler.backend.link import Observe
    from npu_compiler.qgraph.ir import QuantizedGraph
    from npu_isa.file.binary import Binary


def add(sub: Subparsers) -> None:
    """Add the command's parser."""
    parser = add_command(sub, "compile", run, "model to NPU binary", "Compile a model for a machine.")
    add_model(parser, "npuq", text=".onnx (float or quantized; opsets outside 11 to 21 are converted), or .npuq")
    add_hardware(parser)
    parser.add_argument(
        "-o", "--output", type=OutputFile, metavar="FILE.npubin", help="the binary (required without --print-after)"
    )
    parser.add_argument(
        "--npuq", type=OutputFile, metavar="FILE.npuq",
        help="keep the quantized graph too, also where the machine then refuses it",
    )  # fmt: skip
    parser.add_argument(
        "--print-after", type=names, default=(), metavar="STAGE[,STAGE]",
        help="print the model after a stage: import, a graph pass, quantized, schedule, program, or all",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Compile an ONNX model, or a quantized graph."""
    from npu_compiler.backend.link import compile_quantized
    from npu_compiler.qgraph import npuq

    from npu_runtime.session.hosting import host_of

    quantized = is_quantized(args)
    wanted = _stages(args, quantized)
    machine = load_machine(args.hardware)

    def observe(stage: str, text: Callable[[], str]) -> None:
        if stage in wanted:
            put(f"# after {stage}\n{text()}")

    if quantized:
        refuse(args, ("npuq",), "with a .npuq, which is quantized already")
        binary = compile_quantized(npuq.load(args.model), machine, observe)
    else:
        binary = _compile(_quantize(args, machine, observe), machine, observe, args.npuq)
    if "program" in wanted:
        from npu_isa.asm.disasm import disassemble

        observe("program", lambda: disassemble(binary, data=False))
    put_notes(binary.notes)
    put_host(host_of(binary))
    if args.output is not None:
        save(binary, args.output)
        dials = sum(layer.has_dial for layer in binary.layers)
        note(
            f"{args.output}: {len(binary.layers)} layers ({dials} with a dial, {len(binary.dial)} steps), "
            f"{len(binary.code)} instructions, {len(binary.constants):,} bytes of constants for {machine.name}"
        )
    return 0


def _stages(args: argparse.Namespace, quantized: bool) -> tuple[str, ...]:
    """Return the stages to print; end with a wrong call where there is no such one, or nothing to do."""
    from npu_compiler.pipeline import STAGES

    stages = (*STAGES, "program")
    if quantized:
        stages = stages[stages.index("schedule") :]
    wanted: tuple[str, ...] = stages if args.print_after == ("all",) else args.print_after
    unknown = [s for s in wanted if s not in stages]
    if unknown:
        args.parser.error(f"--print-after: no stage {unknown[0]!r}; stages: {', '.join(stages)}, or all")
    if args.output is None and not wanted:
        args.parser.error("give -o FILE.npubin, or --print-after STAGE")
    return wanted


def _quantize(args: argparse.Namespace, machine: MachineConfig, observe: "Observe") -> "QuantizedGraph":
    from npu_compiler.qgraph import npuq

    from npu_runtime.session.compiling import quantize_file

    with first_run_notice():
        _, graph = quantize_file(**model_arguments(args), machine=machine, observe=observe)
    if args.npuq is not None:
        npuq.save(graph, args.npuq)
        note(f"{args.npuq}: the quantized graph")
    return graph


def _compile(graph: "QuantizedGraph", machine: MachineConfig, observe: "Observe", kept: str | None) -> "Binary":
    """Compile a graph that was just quantized; a refusal says how not to do that again for another machine."""
    from npu_compiler.backend.link import compile_quantized

    try:
        return compile_quantized(graph, machine, observe)
    except (CompileError, UnsupportedError) as error:
        way = (
            f"the quantized graph is kept: `npu compile {kept} --hardware NAME|FILE` tries another machine"
            if kept is not None
            else "--npuq FILE.npuq keeps the quantized graph, which `npu compile` tries on other machines at once"
        )
        raise type(error)(error.message, error.where, f"{error.hint}; {way}" if error.hint else way) from None
