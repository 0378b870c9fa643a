"""From a quantized graph to a binary for one machine."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from npu_isa.file.binary import Binary, InputInfo, LayerInfo, OutputInfo, code_address, data_address
from npu_isa.isa.codec import encode
from npu_isa.isa.program import Program
from npu_isa.machine.config import MachineConfig

from npu_compiler.backend.boundaries import legal_boundaries
from npu_compiler.backend.constants import pack
from npu_compiler.backend.emit import emit
from npu_compiler.backend.fit import check_dram, check_fit
from npu_compiler.backend.plan import Plan
from npu_compiler.backend.tokens import add_tokens
from npu_compiler.outputs import Output
from npu_compiler.qgraph.dial import dial_steps
from npu_compiler.qgraph.ir import Assembled, QConv, QFold, QuantizedGraph

Observe = Callable[[str, Callable[[], str]], None]


def ignore(stage: str, text: Callable[[], str]) -> None:
    """Observe nothing."""


def compile_quantized(graph: QuantizedGraph, machine: MachineConfig, observe: Observe = ignore) -> Binary:
    """Schedule a quantized graph on a machine and emit the binary.

    Args:
        graph: the network; its values do not depend on the machine.
        machine: the design point.
        observe: called with "schedule" and a function that returns its text.

    Raises:
        CompileError: the network does not fit the machine; the message names the node and the limit.
        UnsupportedError: the network asks for dynamic extraction, the machine has none.
    """
    plan = check_fit(graph, machine)
    observe("schedule", plan.dump)
    constants, places = pack(plan)
    layers = [n for n in graph.nodes if not isinstance(n, Assembled | QFold)]
    code = emit(plan, places, code_address(constants.size), {n.name: i for i, n in enumerate(layers)})
    base = data_address(constants.size, len(code.instructions))
    check_dram(base + plan.dram_bytes, plan)
    program = _relocated(Program.of(code.instructions), code_address(constants.size), base)
    program = add_tokens(program, machine)
    legal = legal_boundaries(plan, machine)
    steps, macs = dial_steps(graph, legal)
    return Binary(
        model=graph.name,
        machine=machine,
        code=encode(program),
        constants=constants,
        dram_bytes=base + plan.dram_bytes,
        input=_input_info(plan, base),
        outputs=tuple(_output_info(plan, base, output) for output in graph.outputs),
        layers=_layers(graph, legal),
        dial=steps,
        dial_macs=macs,
        layer_of=np.array(code.layer, np.int32),
        tile_of=np.array(code.tile, np.int32),
        channel_of=np.array(code.channel, np.int32),
        location_of=np.zeros(len(code.layer), np.int32),
        notes=graph.notes,
        host=graph.host,
    )


def _relocated(program: Program, written_for: int, base: int) -> Program:
    """Move what lies behind the constants to `base`: how long the program is was not known when it was written."""
    tables = dict(program.tables)
    for name in ("load", "fold", "store"):
        tables[name] = tables[name].copy()
        at = tables[name]["dram_addr"]
        at[at >= written_for] += base - written_for
    return replace(program, tables=tables)


def _layers(graph: QuantizedGraph, legal: dict[str, tuple[int, ...]]) -> tuple[LayerInfo, ...]:
    registers = {n.name: i for i, n in enumerate(graph.lowerable)}
    folds = {n.out: n for n in graph.nodes if isinstance(n, QFold)}
    found = []
    for node in graph.nodes:
        if isinstance(node, Assembled | QFold):
            continue
        fold = folds.get(node.inputs[0])
        found.append(
            LayerInfo(
                name=node.name,
                onnx_nodes=tuple(dict.fromkeys((*(fold.onnx_nodes if fold else ()), *node.onnx_nodes))),
                kind="conv" if isinstance(node, QConv) else "window",
                register=registers.get(node.name, -1),
                groups=graph.tensors[node.inputs[0]].groups if node.name in registers else 0,
                boundaries=legal.get(node.name, (0,)),
                macs=getattr(node, "macs", 0),
                out=node.out,
            )
        )
    return tuple(found)


def _input_info(plan: Plan, base: int) -> InputInfo:
    graph = plan.graph
    image, pre = graph.tensors[graph.input], graph.preprocess
    return InputInfo(
        name=image.name,
        address=base + plan.dram[graph.input],
        height=image.height,
        width=image.width,
        channels=image.channels,
        signed=image.signed,
        scale=image.scale,
        pixel_scale=pre.pixel_scale,
        mean=pre.mean,
        std=pre.std,
        resize=pre.resize,
        crop=pre.crop,
        table=graph.table,
    )


def _output_info(plan: Plan, base: int, output: Output) -> OutputInfo:
    out = plan.graph.tensors[output.tensor]
    return OutputInfo(
        name=output.name,
        address=base + plan.dram[output.tensor],
        height=out.height,
        width=out.width,
        channels=out.channels,
        bits=out.bits,
        signed=out.signed,
        scale=out.scale,
        channel_map=out.channel_map,
        shape=output.shape,
    )
