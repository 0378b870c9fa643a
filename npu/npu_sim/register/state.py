"""Every register and memory of the machine, one field per physical structure, with its width.

`REGISTERS` holds the registers whose number does not depend on the machine: one record, its fields in int64, wide
enough for what their comment says. Structures that grow with the machine are arrays. Where two sides of an array
alternate, the one that holds the registers before the clock edge of cycle t is side t mod 2.
"""

from typing import Any, NamedTuple

import numpy as np
from npu_isa.isa.tables import RAW, SPECS
from npu_isa.machine.config import ACT_REGIONS
from numpy.typing import NDArray

from npu_sim.activity import CAUSES
from npu_sim.kernel import kernel, record

Array = NDArray[Any]

WORD_BYTES = int(RAW["word_bytes"])  # of an instruction
GROUP = int(RAW["group_channels"])  # bytes of a word
TABLE_BYTES = int(RAW["table_bytes"])
ENGINES = len(RAW["engines"])
VECTOR_STAGES = 7  # read and reduce, bias, multiply, residual, round and clamp, table, write
CONTROL_RING = 8  # slots of the vector engine's control, one per cycle: more than its stages
PIXEL_RING = 4  # slots of what travels from address to extraction, one per cycle: more than the stages between
EIGHT = 16  # row of Matrix.unit: the byte's value; the rows before are its 4-bit code at a position
REWIND = 4096  # registers that all move one place per clock stand in a buffer with so much room before them; the place
# where they begin moves instead, and they are brought back to the end when it has reached the front
TIMES = ("dispatch", "accept", "start", "issue_end", "end")
# rows of Vector.lanes
BIAS, MULT, MULT2, SHIFT, SHIFT3, SHIFT4, SUM1, BIASED, PRODUCT, ADDED, CLAMPED, RESULT, RES1, RES2, RES3 = range(15)
# rows of REGISTERS.word
GEOM_WORD, CONV_WORD, STREAM_GEOM, STREAM_CONV, VGEOM_WORD, VEC_WORD = range(6)


OPERANDS = tuple(dict.fromkeys(o.name for s in SPECS for o in s.operands if not o.repeat))
INSTRUCTION = record("kind", "engine", "pop", "push", *OPERANDS)  # a decoded word, all formats in one

SIZES = record(  # the machine description: wires, not registers
    "rows",
    "cols",
    "segment_rows",
    "segments",
    "weight_rows",  # written per cycle
    "banks",
    "region_words",
    "acc_rows",
    "taps",  # of a vector lane, per cycle
    "bus_bytes",
    "latency",
    "burst_bytes",
    "block_bytes",
    "queue_depth",
    "token_depth",
    "position_bytes",  # of one place's row of s_wgt
    "shadow_free",
    "param_rows",  # bias, multiplier and shift, second multiplier
    "table_rows",  # rows of parameters that hold the table
    "finds",  # 1 bit: positions are found at run time, in a stage of its own before extraction
    "fetch_words",  # of a block of the program
    "buffer_words",
)

FRONT = record(
    "pc",  # 27 bits
    "ended",  # instructions whose work is over and which have not ended: is there anything to end?
    "released",  # 1 bit: ports became free at the last clock edge
)
FETCHER = record(  # counters of the program's words and bytes: 27 and 32 bits
    "base",  # 32 bits: address of the program in DRAM
    "asked",  # words asked for
    "moved",  # bytes that the bus has moved
    "written",  # bytes written to the buffer
    "there",  # words that can be dispatched, or were
    "decoded",  # words decoded: the next one, or all before it
    "until",  # clock gate: last cycle in which something leaves the pipe
)
QUEUE = record("head", "count")  # 16 bits each
ENGINE = record(
    "op",  # instruction at the issue stage
    "state",  # 3 bits, see npu_sim.register.front
    "slot",  # where the instruction stands in the list of those that have not ended
    "head",  # oldest of that list
    "count",
    "blocked",  # 1 bit: waits for room in a token FIFO
)
FLIGHT = record(  # an instruction that was accepted and has not ended
    "op",
    "done",  # 1 bit: its work is over
    "reads",  # 4 bits: read ports held
    "writes",  # 4 bits: write ports held
)
PLACE = record("group", "shift")  # 8 and 3 bits: an entry of the group table

LOADER = record(  # fills the shadow weights and the shadow list, a pass ahead of the stream
    "group_low",  # 8 bits: least and greatest group covered, for the ports
    "group_high",
    "low",  # 9 bits: places in 4-bit form
    "four",  # 1 bit: the entry pointed to is in 4-bit form
    "place",  # 9 bits: the entry pointed to: place, tap, part of the group
    "tap_y",  # 8 bits
    "tap_x",  # 8 bits
    "part",  # 3 bits
    "finished",  # 1 bit: no entry is left
    "batch",  # 10 bits: next rows of the tile
    "pass_four",  # 1 bit: form of the pass being loaded
    "pass_steps",  # 8 bits: cycles per pixel
    "pass_first",  # 1 bit: first pass of the instruction
    "shadow_wait",  # 4 bits: cycles until the shadow weights may be overwritten
)
ENTRY = record(  # one (tap, place) of a pass: what one segment works on
    "valid",  # 1 bit
    "tap_y",  # 8 bits
    "tap_x",  # 8 bits
    "part",  # 3 bits: which channels of the group
    "place",  # 8 bits: counted from the first that the instruction covers
    "group",  # 8 bits
    "shift",  # 3 bits: s_act
    "offset",  # 25 bits: of its word from that of tap 0, group 0
    "step",  # 7 bits: in which cycle of a pixel its word is read
    "owner",  # 1 bit: no entry before it has the same word
)
FETCH = record(  # one row of weights on its way from the loader to extraction
    "row",  # 10 bits; -1 none
    "four",  # 1 bit
    "address",  # 28 bits, bytes; -1: the segment has no entry, its weights are zero
    "positions",  # 28 bits, bytes: the place's row of s_wgt; -1 none
)
STREAM = record(
    "active",  # 1 bit
    "op",
    "steps",  # 8 bits: cycles per pixel
    "four",  # 1 bit
    "first",  # 1 bit: the pass that may overwrite
    "last",  # 1 bit: last pass of the instruction
    "y",  # 16 bits: pixel of the tile
    "x",  # 16 bits
    "pixel",  # 16 bits
    "step",  # 7 bits
    "fresh",  # 1 bit: no step of the pass was issued yet
)
SEGMENT = record(  # one segment's word on its way from address to extraction
    "read",  # 1 bit: in this step
    "address",  # 24 bits; -1: outside the image or no entry
    "part",  # 3 bits
    "shift",  # 3 bits: s_act, or what the place clips until the position is found
)
PIXEL = record(  # control that travels with a wavefront
    "go",  # 1 bit: the pixel is complete
    "swap",  # 2 bits: first step of a pass, 1 in 8-bit form, 2 in 4-bit form
    "four",  # 1 bit
    "unsigned",  # 1 bit
    "dynamic",  # 1 bit: positions are found from the words
    "row",  # 17 bits: accumulator row, those of the second half behind the first
    "accumulate",  # 1 bit (-1 or 0): add to what is there
    "last",  # 1 bit: last pixel of the instruction
)
WAVE = record(
    "array",  # clock gates: last cycle in which the array, the weight extraction is not at rest
    "load",
    "odd",  # and the registers and multipliers of odd channels, which 4-bit form alone uses
    "line_head",  # batches in the weight skew
    "line_count",
    "swap_head",  # swaps on their way through the array
    "swap_count",
    "head",  # where the registers begin whose places move, see REWIND
)

VECTOR = record(
    "param",  # 17 bits: next parameter row
    "params",  # 17 bits: parameter rows of the block
    "y",  # 12 bits: pixel of the tile
    "x",
    "part",  # 2 bits: what the pixel does next: window or accumulators, residual, second word
    "tap_y",  # 8 bits
    "tap_x",  # 8 bits
    "sub",  # 7 bits: cycle inside a step whose words share banks
    "out",  # write stage, held for the high bytes: word, byte, lanes, 16-bit form
    "out_byte",
    "out_lanes",
    "out_wide",
    "until",  # clock gate of the pipeline
)
VREAD = record(  # what the read stage does in the next cycle
    "param",  # 17 bits: parameter row to read; -1 none
    "index",  # which of the block's rows it is
    "raw",  # 1 bit: a row of the table, which goes down the pipeline in place of sums
    "acc_row",  # 17 bits; -1 none
    "taps",  # 8 bits: taps of the step
    "tap",  # 16 bits: number of the first
    "first",  # 8 bits: its place in the kernel row
    "sub",
    "residual",  # 24 bits: word; -1 none
    "product",  # 1 bit: it multiplies the sum
    "source",  # 2 bits
    "src_unsigned",  # 1 bit
    "res_unsigned",  # 1 bit
    "byte",  # 4 bits
    "lanes",  # 10 bits
)
VCONTROL = record(  # travels down the pipeline
    "go",  # 1 bit: a pixel's sum is complete
    "high",  # 1 bit: write the high bytes of the pixel before
    "row",  # 7 bits: a row of the table passes: its number plus 1; 0: none
    "last",  # 1 bit: last slot of the instruction
    "out",  # 24 bits: word
    "byte",  # 4 bits
    "lanes",  # 10 bits
    "wide",  # 1 bit each
    "leaky",
    "residual",  # it is added
    "table",
    "low",  # 16 bits each: clamp
    "high_limit",
)

UNIT = record(  # a transfer engine
    "dram",  # 32 bits: first byte
    "rows",  # runs, after those without a gap between them were joined
    "cols",
    "run",
    "row_pitch",
    "col_pitch",
    "row",  # where the bus stands
    "col",
    "burst",  # burst of the DRAM
    "beat",  # 10 bits: inside the burst
    "asking",  # 1 bit: blocks are left
    "until",  # clock gate: last cycle in which something leaves the pipe
    "pixels",  # fold: pixels left to make
    "moved",  # fold: bytes that the bus has moved
    "walk_op",  # memory side: instruction
    "walk_row",
    "walk_col",
    "walk_byte",
    "fold_bytes",  # memory side of a fold: bytes in the line buffer, pixels written
    "fold_done",
)
BUS = record("owner", "last", "block_bursts")  # owner: -1 none, 0 load, 1 store, 2 fetch
BEAT = record(  # one cycle of the DRAM's pipe
    "op",  # instruction; -1 none
    "count",  # useful bytes
    "dram",  # address of the first
    "credit",  # 1 bit: a pixel of a fold
    "last",  # 1 bit: the operation, or the block of code, ends with it
)

NOTES = record(
    "double_reads",  # cycles in which matrix and vector engine read one half of the accumulators
)

REGISTERS = np.dtype(
    [
        ("sizes", SIZES),
        ("front", FRONT),
        ("fetch", FETCHER),
        ("queue", QUEUE, (ENGINES,)),
        ("engine", ENGINE, (ENGINES,)),
        ("tokens", np.int64, (ENGINES, ENGINES)),  # (giver, taker): 17 bits, tokens in each FIFO
        ("ports", np.int64, (ENGINES, 2, ACT_REGIONS)),  # operations of an engine that hold a read or write port
        ("boundary", np.int64, (int(RAW["boundary_registers"]),)),  # 8 bits each
        ("word", INSTRUCTION, (6,)),  # operands held: of geom, conv; copies for the stream; of vgeom, vec
        ("place", PLACE, (int(RAW["max_groups"]),)),
        ("loader", LOADER),
        ("stream", STREAM),
        ("pixel", PIXEL, (PIXEL_RING,)),  # one slot per cycle in flight, by cycle modulo the ring's length
        ("wave", WAVE),
        ("vector", VECTOR),
        ("read", VREAD),
        ("control", VCONTROL, (CONTROL_RING,)),  # one slot per cycle in flight, by cycle modulo the ring's length
        ("unit", UNIT, (2,)),  # load, store
        ("bus", BUS),
        # not hardware: what an observer notes
        ("causes", np.int64, (ENGINES, len(CAUSES))),  # cycles by cause
        ("empty", np.int64, (ENGINES,)),  # cycles without an instruction, until one comes or the program ends
        ("starved", np.int64, (ENGINES,)),  # those of them in which the front end had none either
        ("waiting", np.int64, (ENGINES,)),  # cycles of the present wait for tokens
        ("missing", np.int64, (ENGINES,)),  # tokens missing in the last of them
        ("notes", NOTES),
    ],
    align=True,
)


@kernel
def copy(target: Array, at: int, source: Array, first: int, count: int) -> None:
    """Copy bytes."""
    for b in range(count):
        target[at + b] = source[first + b]


class Front(NamedTuple):
    """Fetch buffer, decoder, queues, and the instructions that have not ended."""

    buffer: Array  # bytes: word i of the program stands at i modulo the buffer's words
    fields: Array  # gates of the decoder: (opcode, column of INSTRUCTION, 3): low bit, width, 1 if signed; see `field`
    entries: Array  # and (opcode, 2, 2): low bit and width of the repeated operands
    program: Array  # INSTRUCTION: the words decoded so far; in hardware the queues and engines carry theirs
    decoded: Array  # the same numbers, (instruction, column)
    table: Array  # (instruction, 2, 16): the repeated operands of groups: group, shift
    queue: Array  # (engine, depth): instruction numbers; in hardware the words
    flight: Array  # FLIGHT (engine, n)
    times: Array  # not hardware: (instruction, 5): when it was dispatched, ...; -1 if it never was


class Matrix(NamedTuple):
    """Pass lists, weight and activation words on their way to the extraction units."""

    entry: Array  # ENTRY (2, segment): the loader's (shadow) list, the stream's (active) list
    fetch: Array  # FETCH (2, row of a batch): addressed, read; where positions are found 3: the loader is as early
    raw: Array  # (row of a batch, 3 x columns): bytes read; behind them s_wgt, 4 bits per column
    segment: Array  # SEGMENT (PIXEL_RING, segment)
    word: Array  # (1, segment, 16): bytes read; where positions are found 2: the words for which they were
    unit: Array  # (2, 17, 256): gates of an extraction unit: signed or unsigned, position or EIGHT, byte


class Pe(NamedTuple):
    """The array, its skew registers, segment shifters, total chain and accumulators.

    Rows of processing elements are ordered [row of a segment][segment][column], flat: the row above is `segments x
    columns` elements before, the column to the left one element before. n = rows x columns, s = segments x columns.
    """

    act: Array  # 2 n, 10 bits a PE, see REWIND: an 8-bit value (9 bits), or two 4-bit codes (5 bits each)
    psum: Array  # (2, s + n) 20 bits; the first row is the zero that enters the top
    weight: Array  # (2, n) 8 bits a PE, decoded by its form (1 bit): int8 and 0, or two 4-bit codes
    shadow: Array  # n x 8 bits
    swap: (
        Array  # (swap, 2) 2 bits a PE: fronts that move with the skew: cycle after the address stage, form of the pass
    )
    skew_act: Array  # (cycle, 2 x rows): skew registers, row i of segment k has i + k; a ring by the cycle of arrival
    skew_shift: Array  # (cycle, segments): s_act on its way to the shifters
    skew_control: Array  # (cycle, 3): accumulator row, accumulate, last on their way to the accumulators
    line: Array  # (batch, row, 2, columns): skew registers: weights, s_wgt; column c of segment k has k + c
    line_to: (
        Array  # (batch, row, 3): segment, -1 none; first place of its row in `shadow`; 1 bit: first row of the segment
    )
    line_born: Array  # batch: cycle of extraction
    s_act: Array  # s x 3 bits, see REWIND: s_act at the shifters
    shift: Array  # (2, s) 3 bits: s_wgt at the shifters, its shadow
    total: Array  # (2, s + columns) 32 bits; the first segment is the zero that enters segment 0
    control: Array  # 3 x (columns + 2), see REWIND: row, accumulate, last beside the accumulators, one column per cycle
    stage: Array  # (3, columns) 32 bits: accumulator read, total beside it, their sum
    acc: Array  # (2 halves x rows + 1 that stands for "no write", columns) 32 bits


class Vector(NamedTuple):
    """Window addresses and registers of the lanes."""

    tap: Array  # (2, taps): word of a tap of the step, -1 outside the image; cycles of the step that begins there
    step: (
        Array  # (2, tap of a kernel row, word): cycle of its step in which the word is read; 1 bit: the first such word
    )
    lanes: Array  # (15, lane): bias 32, multipliers 16 and 16, shift 6 and its copies beside product and sum, sum 32,
    # biased 33, product 49, added 50, clamped 16 or a row of the table 32, result 16, residual on its way 3 x 9 bits
    weights: Array  # (row, lane) 4 x 8 bits: depthwise weights
    table: Array  # (lane, 256) 8 bits: each lane's copy of the table


class Dma(NamedTuple):
    """The DRAM and what is under way to and from it."""

    beat: Array  # BEAT (load, store or fetch, latency): by cycle modulo the latency
    data: Array  # (load, store or fetch, latency, bytes of the bus)
    line: Array  # line buffer of the fold
    dram: Array  # bytes


class Memories(NamedTuple):
    """On-chip memories, bytes."""

    act: Array  # four regions behind each other
    weight: Array
    param: Array


class Machine(NamedTuple):
    """The whole machine."""

    registers: Array  # REGISTERS, one element
    front: Front
    matrix: Matrix
    pe: Pe
    vector: Vector
    dma: Dma
    memories: Memories
