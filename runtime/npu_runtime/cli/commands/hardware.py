"""npu hardware: machine descriptions."""

import argparse

from npu_isa.machine.config import SHIPPED, load_machine, machine_text

from npu_runtime.cli.arguments import Subparsers, add_command
from npu_runtime.cli.output import put
from npu_runtime.cli.paths import InputPath


def add(sub: Subparsers) -> None:
    """Add the command's parser and those of its actions."""
    parser = sub.add_parser("hardware", help="machine descriptions", description="List, show or check machines.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_command(actions, "list", run_list, "the shipped machines", "List the shipped machines.")
    show = add_command(actions, "show", run_show, "a machine as TOML", "Print a machine as TOML.")
    show.add_argument("name", type=InputPath.of("toml"), metavar="NAME|FILE.toml")
    check = add_command(
        actions, "check", run_check, "name every rule that a description breaks", "Check a machine description."
    )
    check.add_argument("file", type=InputPath.of("toml"), metavar="FILE.toml")


def run_list(args: argparse.Namespace) -> int:
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
    put(text_table(rows))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print a machine as TOML."""
    load_machine(args.name)
    put(machine_text(args.name))
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Check a machine description."""
    machine = load_machine(args.file)
    put(f"{args.file}: {machine.name} is consistent (hash {machine.hash()[:16]})\n")
    return 0
