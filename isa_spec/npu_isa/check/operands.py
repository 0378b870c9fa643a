"""Operands: those of each operation agree with each other, with the machine and with the boundaries."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from npu_isa.check.faults import Array, First
from npu_isa.errors import ProgramError
from npu_isa.isa.ops import MAX_GROUPS, Conv, Load, Memory, Op, Source, Vec
from npu_isa.isa.resolve import Ops
from npu_isa.isa.tables import NO_DIAL, RAW
from npu_isa.machine.config import WORD_BYTES, MachineConfig
from npu_isa.machine.footprint import Accesses, load_unit
from npu_isa.machine.window import axes

Legal = Mapping[int, tuple[int, ...]]
Need = Callable[..., None]


def check_operands(
    ops: Ops, touched: Accesses, machine: MachineConfig, constants_bytes: int, registers: int, legal: Legal
) -> None:
    """Check each operation's operands against each other and against the machine.

    Raises:
        ProgramError: the first operation that is wrong.
    """
    check_extraction(ops, machine)
    first = First(ops)
    _convs(ops.conv, first, machine, registers)
    _vecs(ops, first, machine)
    _loads(ops.load, touched, first, machine, constants_bytes, registers, legal)
    _folds(ops.fold, touched, first, constants_bytes)
    run = ops.store["run"]
    first.need(
        ops.store["index"],
        run % WORD_BYTES == 0,
        lambda i, op: f"run = {op.run}: must be a multiple of {WORD_BYTES} bytes",
    )
    first.check()


def check_extraction(ops: Sequence[Op], machine: MachineConfig) -> None:
    """Check that the machine can find positions at run time if a conv asks for it; simulators do so as they load.

    Raises:
        ProgramError: it cannot; naming the first such conv.
    """
    columns = Ops.of(ops)
    first = First(columns)
    first.need(
        columns.conv["index"],
        np.logical_or(machine.dynamic_extraction, columns.conv["dynamic"] == 0),
        lambda i, op: f"dynamic = 1 of its geom: the machine {machine.name} has no dynamic extraction",
        "set dynamic_extraction = true in the machine, or quantize with --extract static",
    )
    first.check()


def _convs(conv: Array, first: First, machine: MachineConfig, registers: int) -> None:
    at = conv["index"]
    first.need(
        at,
        (conv["register"] < registers) | (conv["register"] == NO_DIAL),
        lambda i, op: f"register = {op.geom.register} of its geom: the program uses {registers} boundary registers",
        f"a layer without a dial names register {NO_DIAL}",
    )

    def rows(i: int, op: Conv) -> str:
        return f"accumulator rows {op.acc_row}..{op.acc_row + op.pixels - 1}: a half has {machine.acc_rows} rows"

    first.need(at, conv["acc_row"] + conv["tile_h"] * conv["tile_w"] <= machine.acc_rows, rows, "use smaller tiles")

    def places(i: int, op: Conv) -> str:
        return f"places {op.group_first}..{op.group_first + op.group_count - 1}: the group table has {MAX_GROUPS}"

    first.need(at, conv["group_first"] + conv["group_count"] <= MAX_GROUPS, places)


def _vecs(ops: Ops, first: First, machine: MachineConfig) -> None:
    vec, cols = ops.vec, machine.array_cols
    at, unit, byte = vec["index"], min(WORD_BYTES, cols), vec["out_byte"]
    first.need(at, vec["lanes"] % unit == 0, lambda i, op: f"lanes = {op.lanes}: must be a multiple of {unit}")
    first.need(at, vec["lanes"] <= cols, lambda i, op: f"lanes = {op.lanes}: the machine has {cols}")
    if cols < WORD_BYTES:
        first.need(
            at,
            (byte % cols == 0) & (byte + vec["lanes"] <= WORD_BYTES),
            lambda i, op: f"out_byte = {op.out_byte}: must be a multiple of {cols} below {WORD_BYTES}",
        )
    else:
        first.need(at, byte == 0, lambda i, op: f"out_byte = {op.out_byte}: must be 0 on an array of {cols} columns")
    _residuals(vec, first)
    first.need(
        at,
        (vec["source"] != Source.ACC) | ((vec["kernel_h"] == 1) & (vec["kernel_w"] == 1)),
        lambda i, op: f"window {op.geom.kernel_h} x {op.geom.kernel_w}: accumulators have 1 x 1",
    )
    _clamps(vec, first)
    _tables(ops, first)
    _maxima(ops, first)


def _residuals(vec: Array, first: First) -> None:
    at, product = vec["index"], vec["product"] != 0
    first.need(at, ~product | (vec["leaky"] == 0), lambda i, op: "product and leaky exclude each other")
    first.need(
        at,
        (vec["residual"] == 0) | (vec["leaky"] == 0),
        lambda i, op: "residual and leaky share the second multiplier",
        "use one of them",
    )
    hint = "product = 1 multiplies it by the residual operand"
    first.need(at, ~product | (vec["residual"] != 0), lambda i, op: "product without residual", hint)
    first.need(
        at,
        ~product | (vec["source"] == Source.SUM),
        lambda i, op: f"product of source {Source(op.geom.source).name.lower()}: its first operand is a window sum",
        "set source=sum",
    )
    first.need(
        at,
        ~product | ((vec["kernel_h"] == 1) & (vec["kernel_w"] == 1)),
        lambda i, op: f"product of a window {op.geom.kernel_h} x {op.geom.kernel_w}: its first operand is one byte",
        "set kernel_h=1 kernel_w=1",
    )


def _tables(ops: Ops, first: First) -> None:
    """The table is not defined at the start, and holds bytes."""
    vec, looks_up = ops.vec, ops.vec["table"] != 0
    first.need(
        vec["index"],
        ~looks_up | (vec["wide"] == 0),
        lambda i, op: "table and wide exclude each other: what is looked up is a byte",
    )
    defined = int(ops.table["index"][0]) if len(ops.table) else len(ops)
    first.need(
        vec["index"],
        ~looks_up | (vec["index"] > defined),
        lambda i, op: "looks up a table that nothing has loaded",
        "put a table instruction before it",
    )


def _clamps(vec: Array, first: First) -> None:
    low, high, wide = vec["clamp_low"], vec["clamp_high"], vec["wide"] != 0

    def clamp(text: str) -> Callable[[int, Vec], str]:
        return lambda i, op: f"clamp {op.geom.clamp_low}..{op.geom.clamp_high}{text}"

    first.need(vec["index"], low <= high, clamp(" is empty"))
    half = 1 << 15
    first.need(vec["index"], ~wide | ((low >= -half) & (high < half)), clamp(f": 16 bits hold -{half}..{half - 1}"))
    byte = ((low >= -128) & (high <= 127)) | ((low >= 0) & (high <= 255))
    first.need(vec["index"], wide | byte, clamp(": a byte holds -128..127 or 0..255"), "set wide=1 for 16 bits")


def _maxima(ops: Ops, first: First) -> None:
    """Every output of a maximum must have a tap inside the image: the maximum of nothing is not defined."""
    at = ops.vec["index"][ops.vec["source"] == Source.MAX]
    lost: list[str] = []
    for index in at.tolist():
        op = ops[index]
        assert isinstance(op, Vec)
        outside = [(name, axis.without_tap()) for name, axis in zip(("row", "column"), axes(op), strict=True)]
        lost.append(next((f"{name} {output}" for name, output in outside if output is not None), ""))

    def text(i: int, op: Vec) -> str:
        return f"the window of output {lost[i]} lies outside the image: its maximum is not defined"

    first.need(at, np.array([not found for found in lost], np.bool_), text)


def _loads(
    load: Array,
    touched: Accesses,
    first: First,
    machine: MachineConfig,
    constants_bytes: int,
    registers: int,
    legal: Legal,
) -> None:
    at, indexed = load["index"], load["indexed"] != 0
    unit = load_unit(load["memory"], machine)
    first.need(at, load["run"] % unit == 0, lambda i, op: f"run = {op.run}: must be a multiple of {unit[i]} bytes")
    source = touched.start[at]  # the first access of a load is what it reads

    def constants(i: int, op: Load) -> str:
        low, end = int(touched.first[source[i]]), int(touched.end[source[i]])
        return (
            f"reads DRAM bytes {low}..{end - 1}: weights and parameters come from the constants, "
            f"bytes 0..{constants_bytes - 1}"
        )

    first.need(at, (load["memory"] == Memory.ACT) | (touched.end[source] <= constants_bytes), constants)
    first.need(
        at,
        ~indexed | (load["memory"] == Memory.PARAM),
        lambda i, op: "only loads of parameters may be indexed",
    )
    first.need(
        at,
        ~indexed | (load["register"] < registers),
        lambda i, op: f"register = {op.register}: the program uses {registers} boundary registers",
    )
    most = np.zeros(RAW["boundary_registers"], np.int64)
    for register, values in legal.items():
        if 0 <= register < len(most):
            most[register] = max(values, default=0)

    def entries(i: int, op: Load) -> str:
        return f"table of {op.table_entries} entries: register {op.register} may be {most[op.register]}"

    first.need(
        at,
        ~indexed | (most[load["register"]] < load["table_entries"]),
        entries,
        "the table needs an entry for each boundary from 0 on",
    )


def _folds(fold: Array, touched: Accesses, first: First, constants_bytes: int) -> None:
    source = touched.start[fold["index"]]
    reads = touched.write[source] == 0  # a fold whose rows all lie in the padding reads nothing

    def constants(i: int, op: Op) -> str:
        low, end = int(touched.first[source[i]]), int(touched.end[source[i]])
        return f"reads DRAM bytes {low}..{end - 1}: no image lies in the constants, bytes 0..{constants_bytes - 1}"

    ok = ~reads | (touched.first[source] >= constants_bytes)
    first.need(fold["index"], ok, constants, "load constants with load")


def check_boundaries(ops: Ops, registers: int, legal: Legal) -> None:
    """Check that no register may exceed the places that its convs cover."""
    if registers > NO_DIAL:
        raise ProgramError(f"{registers} boundary registers used, {NO_DIAL} exist beside the one that is zero", "dial")
    covered = np.zeros(RAW["boundary_registers"], np.int64)
    np.maximum.at(covered, ops.conv["register"], ops.conv["group_first"] + ops.conv["group_count"])
    for register, values in sorted(legal.items()):
        if not 0 <= register < registers:
            raise ProgramError(f"not one of the {registers} registers in use", f"boundary register {register}")
        for value in values:
            if not 0 <= value <= covered[register]:
                raise ProgramError(
                    f"boundary {value}: its convs cover {covered[register]} groups",
                    f"boundary register {register}",
                )
