"""Compiled loops of the check: the untimed run of tokens, and the walk that follows what is written.

Both look at operations one after the other and keep state, which columns cannot. They stand in one file, since Numba's
cache sees edits of that file alone; kernels get every number of the machine as an argument.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
Record = Any  # a row of a table

ENGINES = 4
OTHER, CONV, VEC, TABLE, LOAD, FOLD, STORE = range(7)  # kinds of operations
ACT, WEIGHT, PARAM, ACC0, ACC1, DRAM = range(6)  # memories, as in isa.ops.Memory
ACC, MAC = 0, 1  # sources of a vec, as in isa.ops.Source
UNWRITTEN, POSITION, CHOSEN, SHIFT, MULTIPLIER = range(1, 6)  # faults of the walk


# -- tokens


class TokenRun(NamedTuple):
    """The state of an untimed run of front end, queues and token FIFOs; arrays by engine.

    Attributes:
        sent, done: operations dispatched, ended.
        taken: 1: the operation in work has its tokens.
        waiting: (giver, taker): tokens in each FIFO.
        fifo: (giver, taker, depth): the operation that gave each.
        dispatched: one element: instructions that have left the front end.
    """

    sent: Array
    done: Array
    taken: Array
    waiting: Array
    fifo: Array
    dispatched: Array


class Words(NamedTuple):
    """What the run needs of each operation but the halt: its engine, token masks, and whether it is a setup.

    `work` holds the operations of each engine, one engine after the other from `first` on.
    """

    engine: Array
    pop: Array
    push: Array
    setup: Array
    work: Array
    first: Array


@njit(cache=True)
def _dispatch(w: Words, s: TokenRun, queue_depth: int) -> bool:
    """Move instructions to queues with a place; an operation in work has left the queue for its engine."""
    moved = False
    while s.dispatched[0] < len(w.engine):
        e = w.engine[s.dispatched[0]]
        if s.sent[e] - s.done[e] > queue_depth:
            break
        s.sent[e] += 1
        s.dispatched[0] += 1
        moved = True
    return moved


@njit(cache=True)
def _take(e: int, pop: int, s: TokenRun, clock: Array, ended: Array) -> bool:
    """Take a token of every engine in a mask, if all are there; note what their givers knew."""
    for g in range(ENGINES):
        if pop >> g & 1 and s.waiting[g, e] == 0:
            return False
    for g in range(ENGINES):
        if pop >> g & 1:
            giver = s.fifo[g, e, 0]
            for i in range(1, s.waiting[g, e]):
                s.fifo[g, e, i - 1] = s.fifo[g, e, i]
            s.waiting[g, e] -= 1
            for f in range(ENGINES):
                clock[e, f] = max(clock[e, f], ended[giver, f])
    s.taken[e] = 1
    return True


@njit(cache=True)
def _give(e: int, op: int, push: int, s: TokenRun) -> bool:
    """End an operation if every FIFO in a mask has room for its token."""
    for t in range(ENGINES):
        if push >> t & 1 and s.waiting[e, t] >= s.fifo.shape[2]:
            return False
    for t in range(ENGINES):
        if push >> t & 1:
            s.fifo[e, t, s.waiting[e, t]] = op
            s.waiting[e, t] += 1
    s.done[e] += 1
    s.taken[e] = 0
    return True


@njit(cache=True)
def run_tokens(w: Words, queue_depth: int, s: TokenRun, known: Array, ended: Array) -> None:
    """Run until nothing can go on.

    An engine works on one operation at a time and gives its tokens all at once. The machine overlaps operations and
    may give tokens singly: it waits for less, so it reaches the halt whenever this run does.

    Args:
        w: the program.
        queue_depth: of the machine.
        s: the state, at its beginning.
        known: int64 (operations, 4), written: the last operation of each engine that has ended whenever this starts.
        ended: the same when it has ended; scratch.
    """
    clock = np.full((ENGINES, ENGINES), -1, np.int64)
    moved = True
    while moved:
        moved = _dispatch(w, s, queue_depth)
        for e in range(ENGINES):
            while s.done[e] < s.sent[e]:
                op = w.work[w.first[e] + s.done[e]]
                if not s.taken[e]:
                    if not _take(e, w.pop[op], s, clock, ended):
                        break
                    known[op] = clock[e]
                    moved = True
                if not _give(e, op, w.push[op], s):
                    break
                ended[op] = clock[e]
                if not w.setup[op]:  # a setup ends while the operation before it is still in the pipeline
                    ended[op, e] = op
                moved = True


# -- what is written


class Held(NamedTuple):
    """What has been written so far, and the contents of weight and parameter memory.

    Attributes:
        act: a flag per part of a word: one vec of an array with fewer than 16 columns writes only so much of it.
        weight, param, acc, dram: a flag per unit; acc (2, rows).
        chosen: parameter rows that depend on a boundary.
        weights, params: bytes; params (rows, lanes, 4).
        constants: DRAM from address 0; empty if contents are not to be checked.
        met: scratch, as long as the longest side of an image: rows, then columns, that a window meets.
    """

    act: Array
    weight: Array
    param: Array
    acc: Array
    dram: Array
    chosen: Array
    weights: Array
    params: Array
    constants: Array
    met: Array


@njit(cache=True)
def _all(flags: Array, first: int, rows: int, cols: int, size: int, row_pitch: int, pitch: int) -> int:
    """Return the first place of rows x cols pieces of `size` units that is not set, or -1."""
    for r in range(rows):
        for c in range(cols):
            at = first + r * row_pitch + c * pitch
            for i in range(at, at + size):
                if not flags[i]:
                    return i
    return -1


@njit(cache=True)
def _set(flags: Array, first: int, rows: int, cols: int, size: int, row_pitch: int, pitch: int, value: int) -> None:
    for r in range(rows):
        for c in range(cols):
            at = first + r * row_pitch + c * pitch
            flags[at : at + size] = value


@njit(cache=True)
def _copy(to: Array, at: int, row: int, col: int, source: Array, first: int, rows: int, cols: int, run: int,
          row_pitch: int, pitch: int) -> None:  # fmt: skip
    """Copy rows x cols runs of bytes; row and col are the pitches of the target."""
    for r in range(rows):
        for c in range(cols):
            a, b = at + r * row + c * col, first + r * row_pitch + c * pitch
            to[a : a + run] = source[b : b + run]


@njit(cache=True)
def _meet(met: Array, first: int, count: int, stride: int, dilation: int, kernel: int, pad: int, limit: int) -> None:
    """Set the inputs 0..limit-1 that the taps of a run of outputs meet."""
    met[:limit] = 0
    for o in range(first, first + count):
        for k in range(kernel):
            at = o * stride - pad + k * dilation
            if 0 <= at < limit:
                met[at] = 1


@njit(cache=True)
def _window(h: Held, g: Record, base: int, row0: int, groups: Array, part: int, parts: int, unit: int) -> int:
    """Return the first part of a word of a window inside the image that nothing has written, or -1.

    `parts` of each word from `part` on are read, of the `unit` that it has; groups ascend.
    """
    rows, cols = h.met[0], h.met[1]
    _meet(rows, g["out_y"], g["tile_h"], g["stride_y"], g["dilation_y"], g["kernel_h"], g["pad_top"], g["in_h"])
    _meet(cols, g["out_x"], g["tile_w"], g["stride_x"], g["dilation_x"], g["kernel_w"], g["pad_left"], g["in_w"])
    for y in range(g["in_h"]):
        if not rows[y]:
            continue
        for x in range(g["in_w"]):
            if not cols[x]:
                continue
            pixel = base + (y - row0) * g["row_pitch"] + x * g["pixel_pitch"]
            for i in range(len(groups)):
                at = (pixel + groups[i]) * unit + part
                for k in range(at, at + parts):
                    if not h.act[k]:
                        return k
    return -1


@njit(cache=True)
def _conv(
    h: Held, c: Record, groups: Array, unit: int, cols: int, position_bytes: int, most: int
) -> tuple[int, int, int]:
    at = _window(h, c, c["act_base"], c["act_row0"], groups, 0, unit, unit)
    if at >= 0:
        return UNWRITTEN, ACT, at
    places = c["group_count"]
    words = places * (position_bytes // 16 + c["kernel_h"] * c["kernel_w"] * cols)
    at = _all(h.weight, c["weight_addr"], 1, 1, words, 0, 0)
    if at >= 0:
        return UNWRITTEN, WEIGHT, at
    pixels, half = c["tile_h"] * c["tile_w"], c["acc_half"]
    if c["accumulate"]:
        at = _all(h.acc[half], c["acc_row"], 1, 1, pixels, 0, 0)
        if at >= 0:
            return UNWRITTEN, ACC1 if half else ACC0, at
    _set(h.acc[half], c["acc_row"], 1, 1, pixels, 0, 0, 1)
    worst = 0
    for place in range(places if h.constants.size else 0):
        first = c["weight_addr"] * 16 + place * position_bytes
        for i in range(cols // 2):
            byte = h.weights[first + i]
            worst = max(worst, max(byte & 15, byte >> 4))
    return (POSITION, worst, 0) if worst > most else (0, 0, 0)


@njit(cache=True)
def _vec(
    h: Held, v: Record, groups: Array, unit: int, cols: int, head_rows: int, limits: Array
) -> tuple[int, int, int]:
    part, parts = (v["out_byte"] // cols, 1) if unit > 1 else (0, 1)
    words = (v["out_byte"] + v["lanes"] + 15) // 16
    pixels, half = v["tile_h"] * v["tile_w"], v["acc_half"]
    if v["source"] == ACC:
        at = _all(h.acc[half], v["src_base"], 1, 1, pixels, 0, 0)
        if at >= 0:
            return UNWRITTEN, ACC1 if half else ACC0, at
    else:
        at = _window(h, v, v["src_base"], v["src_row0"], groups[:words], part, parts, unit)
        if at >= 0:
            return UNWRITTEN, ACT, at
    for word in range(words if v["residual"] else 0):
        at = _all(h.act, (v["res_base"] + word) * unit + part, v["tile_h"], v["tile_w"], parts,
                  v["res_row_pitch"] * unit, v["res_pixel_pitch"] * unit)  # fmt: skip
        if at >= 0:
            return UNWRITTEN, ACT, at
    rows = head_rows
    if v["source"] == MAC:
        rows += (v["kernel_h"] * v["kernel_w"] + 3) // 4
    at = _all(h.param, v["param_addr"], 1, 1, rows, 0, 0)
    if at >= 0:
        return UNWRITTEN, PARAM, at
    if h.constants.size:
        fault, value = _scaling(h, v, limits)
        if fault:
            return fault, value, 0
    for word in range(words * (1 + v["wide"])):
        _set(h.act, (v["out_base"] + word) * unit + part, v["tile_h"], v["tile_w"], parts,
             v["out_row_pitch"] * unit, v["out_pixel_pitch"] * unit, 1)  # fmt: skip
    return 0, 0, 0


@njit(cache=True)
def _scaling(h: Held, v: Record, limits: Array) -> tuple[int, int]:
    """Check the static rows of a parameter block; `limits`: see `walk`."""
    row = v["param_addr"] + 1
    if h.chosen[row] or h.chosen[row + 1]:
        return CHOSEN, 0
    bits, shift_at, shift_mask, most_shift, most_mult = limits
    least, largest, wrong = most_shift + 1, 0, 0
    second = (v["residual"] and not v["product"]) or v["leaky"]
    for lane in range(v["lanes"]):
        for r in range(2):
            word = np.int64(0)
            for k in range(4):
                word |= np.int64(h.params[row + r, lane, k]) << 8 * k
            if r == 0:
                shift = word >> shift_at & shift_mask
                least, largest = min(least, shift), max(largest, shift)
            mult = word & ((np.int64(1) << bits) - 1)
            mult -= (mult >> (bits - 1)) << bits
            if (r == 0 or second) and abs(mult) > most_mult:
                wrong = mult
    if least < 1:
        return SHIFT, least
    if largest > most_shift:
        return SHIFT, largest
    return (MULTIPLIER, wrong) if wrong else (0, 0)


@njit(cache=True)
def _table(h: Held, o: Record, rows: int) -> tuple[int, int, int]:
    at = _all(h.param, o["param_addr"], 1, 1, rows, 0, 0)
    if at >= 0:
        return UNWRITTEN, PARAM, at
    for row in range(o["param_addr"], o["param_addr"] + rows):
        if h.chosen[row]:
            return CHOSEN, 0, 0
    return 0, 0, 0


@njit(cache=True)
def _load(h: Held, o: Record, unit: int, cols: int) -> tuple[int, int, int]:
    memory = o["memory"]
    size = 4 * cols if memory == PARAM else 16
    words = (o["run"] + size - 1) // size
    if memory == ACT:
        at = _all(h.dram, o["dram_addr"], o["rows"], o["cols"], o["run"], o["dram_row_pitch"], o["dram_col_pitch"])
        if at >= 0:
            return UNWRITTEN, DRAM, at
        _set(h.act, o["addr"] * unit, o["rows"], o["cols"], words * unit, o["row_pitch"] * unit,
             o["col_pitch"] * unit, 1)  # fmt: skip
        return 0, 0, 0
    flags = h.param if memory == PARAM else h.weight
    _set(flags, o["addr"], o["rows"], o["cols"], words, o["row_pitch"], o["col_pitch"], 1)
    if memory == PARAM:
        _set(h.chosen, o["addr"], o["rows"], o["cols"], words, o["row_pitch"], o["col_pitch"], o["indexed"])
    if h.constants.size:
        held = h.params.reshape(-1) if memory == PARAM else h.weights
        _copy(held, o["addr"] * size, o["row_pitch"] * size, o["col_pitch"] * size, h.constants, o["dram_addr"],
              o["rows"], o["cols"], o["run"], o["dram_row_pitch"], o["dram_col_pitch"])  # fmt: skip
    return 0, 0, 0


@njit(cache=True)
def _fold(h: Held, o: Record, unit: int) -> tuple[int, int, int]:
    first = max(o["out_y"] * o["stride_y"] - o["pad_top"], 0)
    last = min((o["out_y"] + o["rows"] - 1) * o["stride_y"] - o["pad_top"] + o["kernel_h"], o["in_h"])
    line = o["in_w"] * o["channels"]
    if last > first:
        at = _all(h.dram, o["dram_addr"] + first * line, 1, 1, (last - first) * line, 0, 0)
        if at >= 0:
            return UNWRITTEN, DRAM, at
    words = (o["kernel_h"] * o["kernel_w"] * o["channels"] + 15) // 16
    _set(h.act, o["addr"] * unit, o["rows"], o["cols"], words * unit, o["row_pitch"] * unit, o["pixel_pitch"] * unit, 1)
    return 0, 0, 0


@njit(cache=True)
def _store(h: Held, o: Record, unit: int) -> tuple[int, int, int]:
    at = _all(h.act, o["addr"] * unit, o["rows"], o["cols"], o["run"] // 16 * unit, o["row_pitch"] * unit,
              o["col_pitch"] * unit)  # fmt: skip
    if at >= 0:
        return UNWRITTEN, ACT, at
    _set(h.dram, o["dram_addr"], o["rows"], o["cols"], o["run"], o["dram_row_pitch"], o["dram_col_pitch"], 1)
    return 0, 0, 0


@njit(cache=True)
def walk(kind: Array, row: Array, conv: Array, vec: Array, table: Array, load: Array, fold: Array, store: Array,
         groups: Array, layout: Array, every: Array, h: Held, unit: int, cols: int, position_bytes: int, head_rows: int,
         table_rows: int, limits: Array) -> tuple[int, int, int, int]:  # fmt: skip
    """Check the reads of each operation in program order, then mark its writes.

    Args:
        kind, row: of each operation: CONV ..., and its row in the table of that kind.
        conv, vec, table, load, fold, store: the tables of `isa.resolve.Ops`.
        groups, layout: different groups of each layout, ascending, one layout after the other; where each starts.
        every: 0, 1, 2, ...: groups of a vec's window.
        h: what is written at the beginning; it is kept up to date.
        unit: parts of a word.
        cols: columns of the array.
        position_bytes: of one place's row of s_wgt.
        head_rows: parameter rows before the taps.
        table_rows: parameter rows of a table.
        limits: bits of a multiplier, place and mask of a shift, most shift, most multiplier, most position.

    Returns:
        fault (0: none), operation, then of UNWRITTEN memory and place, of others the value found.
    """
    for index in range(len(kind)):
        k, i = kind[index], row[index]
        found = (0, 0, 0)
        if k == CONV:
            at = conv[i]["layout"]
            mine = groups[layout[at] : layout[at + 1]]
            found = _conv(h, conv[i], mine, unit, cols, position_bytes, limits[5])
        elif k == VEC:
            found = _vec(h, vec[i], every, unit, cols, head_rows, limits[:5])
        elif k == TABLE:
            found = _table(h, table[i], table_rows)
        elif k == LOAD:
            found = _load(h, load[i], unit, cols)
        elif k == FOLD:
            found = _fold(h, fold[i], unit)
        elif k == STORE:
            found = _store(h, store[i], unit)
        if found[0]:
            return found[0], index, found[1], found[2]
    return 0, 0, 0, 0
