"""What can be refused before a program is written: no value of a weight is looked at."""

from npu_isa.errors import CompileError, UnsupportedError
from npu_isa.isa.tables import NO_DIAL
from npu_isa.machine.config import MachineConfig

from npu_compiler.backend.constants import layout
from npu_compiler.backend.plan import Plan, make_plan
from npu_compiler.backend.refusal import too_small
from npu_compiler.qgraph.ir import QuantizedGraph


def check_fit(graph: QuantizedGraph, machine: MachineConfig) -> Plan:
    """Check that a machine can run a network; return its schedule.

    Only shapes, kernels and which layers have a dial matter: `npu_compiler.pipeline.check_fit` asks for a network that
    is not quantized yet.

    Args:
        graph: the network.
        machine: the design point.

    Raises:
        CompileError: too many layers have a dial, or the smallest tile of a node needs more than a memory holds; the
            message names the node, its operands, the bytes needed and the key of the machine to raise.
        MachineError: the machine breaks a rule.
        UnsupportedError: the network asks for dynamic extraction, the machine has none.
    """
    machine.check()
    if len(graph.lowerable) > NO_DIAL:
        raise CompileError(
            f"{len(graph.lowerable)} layers have a dial, the machine has {NO_DIAL} boundary registers",
            graph.name,
            "keep some layers in 8 bits",
        )
    for node in graph.lowerable:
        if node.lowering is not None and node.lowering.extract == "dynamic" and not machine.dynamic_extraction:
            raise UnsupportedError(
                f"dynamic extraction: the machine {machine.name} has none",
                f"node {node.name}",
                "set dynamic_extraction = true in the machine, or quantize with --extract static",
            )
    plan = make_plan(graph, machine)
    check_dram(layout(plan)[1] + plan.dram_bytes, plan)
    return plan


def check_dram(size: int, plan: Plan) -> None:
    """Raise CompileError if the machine's DRAM has fewer than `size` bytes."""
    machine = plan.machine
    if size > machine.dram_bytes:
        what, where, holds = "the network", f"network {plan.graph.name}", machine.dram_bytes
        raise too_small(where, what, size, "DRAM", holds, "dram_bytes", size, machine)
