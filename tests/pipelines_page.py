"""The computed blocks of isa_spec/PIPELINES.md; `python -m tests.pipelines_page` writes them into the page.

A block's first line names its kind, its example (a file of isa_spec/examples) and what it wants:
`times EXAMPLE [boundary]`, `rule EXAMPLE [boundary]`, `wave EXAMPLE matrix|vector FIRST END [boundary]`; or of none,
`fetch MACHINE WORDS BUFFER`: how so many setups go through a fetch buffer.
"""

import ast
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from npu_isa.asm.assemble import assemble
from npu_isa.machine.config import FETCH_WORDS, load_machine
from npu_runtime.verification.models import MOMENTS, Observation, Workload
from npu_runtime.verification.verify import compare
from npu_sim.fast.time.model import simulate

from tests import naive_durations as durations
from tests.register_models import ALL, instruction
from tests.waves import VECTOR_STAGES, draw, record

PAGE = Path(__file__).parents[1] / "isa_spec" / "PIPELINES.md"
EXAMPLES = PAGE.parent / "examples"
BLOCK = re.compile(r"^```(times|rule|wave|fetch) (.*)\n((?:(?!```).*\n)*)```$", re.MULTILINE)
STEP = {"conv_2x2": 1, "conv_4x4": 2, "window_4x4": 1, "table_2x2": 1}


@cache
def example(name: str) -> tuple[Workload, np.ndarray]:
    """Return the program of an example, and its image: all channels of pixel p are (p + 1) x the example's step."""
    binary = assemble((EXAMPLES / f"{name}.s").read_text(encoding="utf-8"), f"{name}.s")
    pixels = binary.input.height * binary.input.width
    return Workload.of(binary), np.repeat(np.arange(1, pixels + 1, dtype=np.uint8) * STEP[name], binary.input.channels)


@cache
def observed(name: str, boundary: int) -> Observation:
    """Run an example on every model; they have to agree."""
    work, image = example(name)
    seen = {model: run(work, (boundary,), image) for model, run in ALL.items()}
    difference = compare(work, seen, (boundary,)).difference
    assert difference is None, difference
    return seen["register"]


def times(name: str, boundary: int) -> str:
    """Return the table of an example's times."""
    work, _ = example(name)
    found = observed(name, boundary)
    lines = ["".join(["instruction".ljust(14), *(moment.replace("_", " ").rjust(11) for moment in MOMENTS)])]
    for i, row in enumerate(found.times.tolist()):
        lines.append(f"{i:2} {work.instructions[i].name:11}" + "".join(f"{value:11}" for value in row))
    return "\n".join([*lines, f"   halt{found.total_cycles:18}"]) + "\n"


def value(text: str, found: Observation) -> int:
    """Return the value of an expression: numbers, + - * max(), MOMENT[instruction], total."""

    def of(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id="total"):
                return found.total_cycles
            case ast.Subscript(value=ast.Name(id=moment), slice=index):
                return int(found.times[of(index), MOMENTS.index(moment)])
            case ast.Call(func=ast.Name(id="max"), args=args):
                return max(of(arg) for arg in args)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return of(left) + of(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return of(left) - of(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return of(left) * of(right)
        raise ValueError(f"{text!r} has {ast.unparse(node)!r}")

    return of(ast.parse(text.strip(), mode="eval").body)


def wrong_rules(name: str, boundary: int, body: str) -> list[str]:
    """Return the lines whose sides are not all equal."""
    found = observed(name, boundary)
    return [line for line in body.splitlines() if len({value(side, found) for side in line.split("=")}) != 1]


def lines_of(part: str, rows: int, cols: int) -> list[tuple[str, str]]:
    """Return titles and signals of a drawing."""
    if part == "vector":
        return [(s, s) for s in ("slot", *VECTOR_STAGES)] + [("word written", "out")]
    acts = [f"act {i},{c}" for i in range(rows) for c in range(cols) if rows == 2 or i == 0 or c == 0]
    sums = [f"{name} {c}" for c in range(cols if rows == 2 else 2) for name in ("psum", "total", "write")]
    weights = [f"weight {i},0" for i in range(rows)]
    plain = [(name, name) for name in (*weights, "pixel", *acts, *sums)]
    return [("weight row", "row"), ("shadow 0,0 hex", "shadow 0,0"), *plain]


def wave(name: str, part: str, first: int, end: int, boundary: int) -> str:
    """Return a drawing of the cycles first..end - 1 of an example."""
    work, image = example(name)
    machine = work.machine
    seen = record(work, (boundary,), image, first, end)
    return draw(seen, lines_of(part, machine.array_rows, machine.array_cols), first, end)


def fetch(machine: str, words: int, buffer: int) -> str:
    """Return when the blocks of a program of geom and vgeom, in turn, are on the bus, there and dispatched."""
    design = replace(load_machine(machine), instruction_words=buffer)
    code = (*(instruction(("geom", "vgeom")[i % 2]) for i in range(words - 1)), instruction("halt"))
    work = Workload(design, code, np.zeros(0, np.uint8), 1 << 14, 1 << 14, ((1 << 14, 1 << 14),))
    seen = {model: ALL[model](work, (), np.zeros(0, np.uint8)) for model in ("fast", "register")}
    assert compare(work, seen, ()).difference is None
    sent = seen["register"].times[:, MOMENTS.index("dispatch")].tolist()
    lines = ["block   words       bus     there   dispatched   wait"]
    before = -1
    for b, there in enumerate(simulate(work.ops, design, ()).code_there.tolist()):
        first, last = FETCH_WORDS * b, min(FETCH_WORDS * (b + 1), words) - 1
        end = there - design.dram_latency_cycles
        start = end - durations.code_cycles(last + 1 - first, design)
        of = sent[first : last + 1]
        lines.append(
            f"{b:5} {f'{first}..{last}':>7} {f'{start}..{end}':>9} {there:9} {f'{of[0]}..{of[-1]}':>12}"
            f"{max(there - before - 1, 0):7}"
        )
        before = of[-1]
    return "\n".join(lines) + f"\nhalt {seen['register'].total_cycles:41}\n"


def computed(kind: str, words: list[str], body: str) -> str:
    """Return what a block has to hold; a rule that is wrong is marked."""
    match kind, words:
        case "times", [name, *boundary]:
            return times(name, int(*boundary))
        case "rule", [name, *boundary]:
            wrong = wrong_rules(name, int(*boundary), body)
            return "".join(f"{line}{'    WRONG' if line in wrong else ''}\n" for line in body.splitlines())
        case "wave", [name, part, first, end, *boundary]:
            return wave(name, part, int(first), int(end), int(*boundary))
        case "fetch", [machine, count, buffer]:
            return fetch(machine, int(count), int(buffer))
    raise ValueError(f"{kind} {words}")


def render(text: str) -> str:
    """Return the page with its blocks as the simulators compute them."""

    def block(found: re.Match[str]) -> str:
        kind, words, body = found.groups()
        return f"```{kind} {words}\n{computed(kind, words.split(), body)}```"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
