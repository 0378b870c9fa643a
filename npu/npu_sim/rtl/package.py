"""`npu_pkg.sv`: the instruction set and the timing constants as a SystemVerilog package, made from isa.toml.

No opcode, bit position or constant of the ISA is written in the other sources. `python -m npu_sim.rtl.package` rewrites
the file; a test compares it with the tables.
"""

from pathlib import Path

from npu_isa.isa.tables import ENGINES, RAW, SPECS, TIMING, WORD_BITS, InstructionSpec, Operand, header_field

SOURCES = Path(__file__).parent / "sv"
PACKAGE = SOURCES / "npu_pkg.sv"
CONSTANTS = (
    *("group_channels", "segment_rows", "table_entries_per_word", "boundary_registers", "max_groups", "table_bytes"),
)
KEYWORDS = frozenset({"register", "table", "unsigned"})  # of SystemVerilog or C++: such an operand gets a "_" appended

HEAD = """\
// The instruction set and the timing constants. Made from isa.toml by `python -m npu_sim.rtl.package`: do not edit.
package npu_pkg;
"""


def package_text() -> str:
    """Return the text of npu_pkg.sv."""
    lines = [
        HEAD,
        "  // for every engine: the matrix engine uses a part",
        "  // verilator lint_off UNUSEDPARAM",
        f"  localparam int unsigned WORD_BITS = {WORD_BITS};",
    ]
    lines += [f"  localparam int unsigned {name.upper()} = {RAW[name]};" for name in CONSTANTS]
    lines += [f"  localparam int unsigned ENGINES = {len(ENGINES)};"]
    lines += [f"  localparam int unsigned ENGINE_{name.upper()} = {i};" for i, name in enumerate(ENGINES)]
    lines += [f"  localparam int unsigned {name.upper()} = {value};" for name, value in TIMING.items()]
    lines += ["", f"  typedef logic [{WORD_BITS - 1}:0] word_t;"]
    lines += [
        "  // a word has bits that are no field of the instruction asked for",
        "  // verilator lint_off UNUSEDSIGNAL",
    ]
    for name in RAW["header"]:
        low, width = header_field(name)
        lines += _function(f"logic [{width - 1}:0]", name, f"word[{low + width - 1}:{low}]")
    for spec in SPECS:
        lines += _instruction(spec)
    lines += ["  // verilator lint_on UNUSEDPARAM", "  // verilator lint_on UNUSEDSIGNAL", "endpackage", ""]
    return "\n".join(lines)


def _instruction(spec: InstructionSpec) -> list[str]:
    lines = ["", f"  // {spec.summary}", f"  localparam logic [7:0] OP_{spec.name.upper()} = 8'h{spec.opcode:02x};"]
    if not spec.operands:
        return lines
    lines += ["  typedef struct packed {"]
    lines += [f"    {_type(o)} {_name(o)};  // {o.doc}" for o in spec.operands]
    lines += [f"  }} {spec.name}_t;"]
    fields = ", ".join(f"word[{o.bits.stop - 1}:{o.bits.start}]" for o in spec.operands)
    return lines + _function(f"{spec.name}_t", f"get_{spec.name}", f"{{{fields}}}")


def _type(operand: Operand) -> str:
    sign = " signed" if operand.signed else ""
    repeat = f"[{operand.repeat - 1}:0]" if operand.repeat else ""
    return f"logic{sign} {repeat}[{operand.width - 1}:0]"


def _name(operand: Operand) -> str:
    return operand.name + "_" * (operand.name in KEYWORDS)


def _function(kind: str, name: str, value: str) -> list[str]:
    return [f"  function automatic {kind} {name}(input word_t word);", f"    {name} = {value};", "  endfunction"]


if __name__ == "__main__":
    PACKAGE.write_text(package_text(), encoding="utf-8")
