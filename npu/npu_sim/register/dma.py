"""Load and store engines, the DRAM bus and the pipe behind it: kernels, one clock cycle each; `fetch` shares the bus.

The bus side walks the bursts of an operation's runs, one beat of the bus per cycle while a block of it is granted. A
beat leaves the pipe `latency` cycles later: a load's bytes go to a memory of the chip then, a store's to the DRAM.
"""

from typing import Any

from npu_sim.kernel import kernel
from npu_sim.register.fetch import FETCHING, NOBODY, asking, begin_block
from npu_sim.register.front import (
    FOLD,
    FREE,
    ISSUE_END,
    LOAD,
    LOAD_OP,
    PORTS,
    START,
    STORE,
    TOKENS,
    WORK,
    accept,
    finish,
    strided_regions,
    take,
    take_ports,
)
from npu_sim.register.state import GROUP, Array, Dma, Front, Memories, copy

ACT, WEIGHT, PARAM = range(3)
CLIENTS = 3  # of the bus: transfer units 0 (load) and 1 (store), fetch


@kernel
def engine_of(u: int) -> Any:
    """Return the engine of transfer unit 0 (load) or 1 (store)."""
    return STORE if u else LOAD


@kernel
def fold_words(o: Any) -> Any:
    """Return the words of one output pixel of a fold."""
    return (o["kernel_h"] * o["kernel_w"] * o["channels"] + GROUP - 1) // GROUP


@kernel
def port_masks(o: Any, size: int) -> tuple[int, int]:
    """Return the regions whose read and write ports a transfer takes."""
    if o["kind"] == FOLD:
        pitches = o["row_pitch"], o["pixel_pitch"]
        return 0, strided_regions(o["addr"], o["rows"], o["cols"], fold_words(o), pitches[0], pitches[1], size)
    if o["kind"] == LOAD_OP and o["memory"] != ACT:
        return 0, 0
    words = (o["run"] + GROUP - 1) // GROUP
    mask = strided_regions(o["addr"], o["rows"], o["cols"], words, o["row_pitch"], o["col_pitch"], size)
    return (0, mask) if o["kind"] == LOAD_OP else (mask, 0)


@kernel
def decide(t: int, u: int, r: Any, f: Front) -> bool:
    """Accept, take tokens and ports, start: whatever is due in this cycle. Return whether anything was."""
    e = engine_of(u)
    engine, done = r["engine"][e], False
    if engine["state"] == FREE:
        done = accept(t, e, r, f)
    if engine["state"] == TOKENS and take(e, f.program[engine["op"]]["pop"], r):
        engine["state"] = PORTS
        done = True
    if engine["state"] == PORTS:
        op = engine["op"]
        reads, writes = port_masks(f.program[op], r["sizes"]["region_words"])
        if take_ports(e, reads, writes, r, f):
            f.times[op, START] = t
            engine["state"] = WORK
            begin(f.program[op], r["unit"][u], r)
            done = True
    return done


@kernel
def begin(o: Any, d: Any, r: Any) -> None:
    """Set the counters of the bus side; join runs that have no gap between them."""
    d["row"] = d["col"] = d["beat"] = d["pixels"] = d["moved"] = 0
    d["asking"] = 1
    if o["kind"] == FOLD:
        first, last = image_rows(o)
        line = o["in_w"] * o["channels"]
        d["dram"], d["rows"], d["cols"], d["run"] = o["dram_addr"] + first * line, 1, 1, (last - first) * line
        d["pixels"] = o["rows"] * o["cols"]
        d["asking"] = 1 if last > first else 0
    else:
        d["dram"], d["rows"], d["cols"], d["run"] = o["dram_addr"], o["rows"], o["cols"], o["run"]
        if o["kind"] == LOAD_OP and o["indexed"]:
            d["dram"] += o["table_pitch"] * r["boundary"][o["register"]]
        if d["cols"] == 1 or o["dram_col_pitch"] == d["run"]:
            d["run"], d["cols"] = d["run"] * d["cols"], 1
            if d["rows"] == 1 or o["dram_row_pitch"] == d["run"]:
                d["run"], d["rows"] = d["run"] * d["rows"], 1
    d["row_pitch"], d["col_pitch"] = o["dram_row_pitch"], o["dram_col_pitch"]
    d["burst"] = d["dram"] // r["sizes"]["burst_bytes"]


@kernel
def image_rows(o: Any) -> tuple[int, int]:
    """Return first and end of the image rows that a fold reads; equal if all lie in the padding."""
    first = max(o["out_y"] * o["stride_y"] - o["pad_top"], 0)
    last = min((o["out_y"] + o["rows"] - 1) * o["stride_y"] - o["pad_top"] + o["kernel_h"], o["in_h"])
    return (first, last) if last > first else (0, 0)


@kernel
def grant(r: Any, f: Front) -> None:
    """Give a free bus to who asks; of several, to the next one behind the one served last."""
    bus = r["bus"]
    if bus["owner"] != NOBODY:
        return
    for turn in range(1, CLIENTS + 1):
        u = (bus["last"] + turn) % CLIENTS
        if u == FETCHING:
            if asking(r, f):
                bus["owner"] = bus["last"] = u
                begin_block(r, f)
                return
        elif r["unit"][u]["asking"]:
            bus["owner"] = bus["last"] = u
            bus["block_bursts"] = r["sizes"]["block_bytes"] // r["sizes"]["burst_bytes"]
            return


@kernel
def issue(t: int, u: int, r: Any, f: Front, dma: Dma, act: Array) -> None:
    """Do one cycle of the bus side: a beat if the unit has the bus, a pixel of a fold; end the issue after both."""
    engine, d, beat = r["engine"][engine_of(u)], r["unit"][u], dma.beat[u, t % r["sizes"]["latency"]]
    beat["op"] = -1
    beat["count"] = beat["credit"] = beat["last"] = 0
    if engine["state"] != WORK:
        return
    beat["op"], d["until"] = engine["op"], t + r["sizes"]["latency"]
    if r["bus"]["owner"] == u:
        move_beat(t, u, r, f, dma, act)
    if d["pixels"]:
        fold_pixel(d, f.program[engine["op"]], beat)
    if not d["asking"] and not d["pixels"]:
        beat["last"] = 1
        engine["state"] = FREE
        f.times[engine["op"], ISSUE_END] = t + 1


@kernel
def fold_pixel(d: Any, o: Any, beat: Any) -> None:
    """Let the next pixel of a fold go with this cycle's beat if the bus has moved the bytes of its window."""
    d["moved"] += beat["count"]
    pixel = o["rows"] * o["cols"] - d["pixels"]
    first, _ = image_rows(o)
    if bytes_needed(o, first, pixel // o["cols"], pixel % o["cols"]) <= d["moved"]:
        d["pixels"] -= 1
        beat["credit"] = 1


@kernel
def move_beat(t: int, u: int, r: Any, f: Front, dma: Dma, act: Array) -> None:
    """Move one beat between the bus and the pipe; only the bytes of the run inside it count."""
    sz, d, bus = r["sizes"], r["unit"][u], r["bus"]
    beat, data = dma.beat[u, t % sz["latency"]], dma.data[u, t % sz["latency"]]
    run = d["dram"] + d["row"] * d["row_pitch"] + d["col"] * d["col_pitch"]
    chunk = d["burst"] * sz["burst_bytes"] + d["beat"] * sz["bus_bytes"]
    first = max(chunk, run)
    beat["dram"] = first
    beat["count"] = max(min(chunk + sz["bus_bytes"], run + d["run"]) - first, 0)
    if u == 0:
        copy(data, 0, dma.dram, first, beat["count"])
    else:
        walk(0, d, beat["op"], f, data, beat["count"], act, GROUP)
    d["beat"] += 1
    if d["beat"] * sz["bus_bytes"] < sz["burst_bytes"]:
        return
    d["beat"] = 0
    next_burst(d, run, sz["burst_bytes"])
    bus["block_bursts"] -= 1
    if bus["block_bursts"] == 0 or not d["asking"]:
        bus["owner"] = NOBODY


@kernel
def next_burst(d: Any, run: int, burst_bytes: int) -> None:
    """Point to the next burst of the run, or to the first of the next run."""
    d["burst"] += 1
    if d["burst"] * burst_bytes < run + d["run"]:
        return
    d["col"] += 1
    if d["col"] == d["cols"]:
        d["col"] = 0
        d["row"] += 1
    d["asking"] = 1 if d["row"] < d["rows"] else 0
    d["burst"] = (d["dram"] + d["row"] * d["row_pitch"] + d["col"] * d["col_pitch"]) // burst_bytes


@kernel
def arrive(t: int, u: int, r: Any, f: Front, dma: Dma, memories: Memories) -> None:
    """Take what leaves the pipe in this cycle to where it belongs."""
    at, d = t % r["sizes"]["latency"], r["unit"][u]
    beat, data = dma.beat[u, at], dma.data[u, at]
    op, count = beat["op"], beat["count"]
    if op < 0:
        return
    o = f.program[op]
    if u == 1:
        copy(dma.dram, beat["dram"], data, 0, count)
    elif o["kind"] == FOLD:
        fold(d, o, beat, data, dma.line, memories.act)
    elif o["memory"] == ACT:
        walk(1, d, op, f, data, count, memories.act, GROUP)
    elif o["memory"] == WEIGHT:
        walk(1, d, op, f, data, count, memories.weight, GROUP)
    else:
        walk(1, d, op, f, data, count, memories.param, 4 * r["sizes"]["cols"])
    if beat["last"]:
        finish(engine_of(u), op, r, f)


@kernel
def start_walk(d: Any, op: int) -> None:
    """Begin the memory side of an operation with its first bytes."""
    if d["walk_op"] != op:
        d["walk_op"] = op
        d["walk_row"] = d["walk_col"] = d["walk_byte"] = 0
        d["fold_bytes"] = d["fold_done"] = 0


@kernel
def walk(write: int, d: Any, op: int, f: Front, data: Array, count: int, memory: Array, unit: int) -> None:
    """Write the next bytes to the runs of a load, or read them from the runs of a store.

    `unit` is the bytes of an address.
    """
    o, done = f.program[op], 0
    start_walk(d, op)
    while done < count:
        at = (o["addr"] + d["walk_row"] * o["row_pitch"] + d["walk_col"] * o["col_pitch"]) * unit + d["walk_byte"]
        some = min(count - done, o["run"] - d["walk_byte"])
        if write:
            copy(memory, at, data, done, some)
        else:
            copy(data, done, memory, at, some)
        done += some
        step_walk(d, o, some)


@kernel
def step_walk(d: Any, o: Any, some: int) -> None:
    """Move the memory side on by some bytes of a run."""
    d["walk_byte"] += some
    if d["walk_byte"] == o["run"]:
        d["walk_byte"] = 0
        d["walk_col"] += 1
        if d["walk_col"] == o["cols"]:
            d["walk_col"] = 0
            d["walk_row"] += 1


@kernel
def fold(d: Any, o: Any, beat: Any, data: Array, line: Array, act: Array) -> None:
    """Put a beat into the line buffer and write the pixel that comes with it: its bytes are there."""
    start_walk(d, beat["op"])
    first, _ = image_rows(o)
    copy(line, d["fold_bytes"], data, 0, beat["count"])
    d["fold_bytes"] += beat["count"]
    if beat["credit"]:
        write_window(o, first, d["fold_done"] // o["cols"], d["fold_done"] % o["cols"], line, act)
        d["fold_done"] += 1


@kernel
def bytes_needed(o: Any, first: int, y: int, x: int) -> Any:
    """Return how many bytes from the image row `first` on must be there for the window of output (y, x)."""
    top, left = (o["out_y"] + y) * o["stride_y"] - o["pad_top"], x * o["stride_x"] - o["pad_left"]
    bottom, right = min(top + o["kernel_h"], o["in_h"]), min(left + o["kernel_w"], o["in_w"])
    if bottom <= max(top, 0) or right <= max(left, 0):
        return 0
    return ((bottom - 1 - first) * o["in_w"] + right) * o["channels"]


@kernel
def write_window(o: Any, first: int, y: int, x: int, line: Array, act: Array) -> None:
    """Write one output pixel of a fold: tap after tap, zero outside the image, zero up to a whole word."""
    top, left = (o["out_y"] + y) * o["stride_y"] - o["pad_top"], x * o["stride_x"] - o["pad_left"]
    at = (o["addr"] + y * o["row_pitch"] + x * o["pixel_pitch"]) * GROUP
    end = at + fold_words(o) * GROUP
    for ky in range(o["kernel_h"]):
        for kx in range(o["kernel_w"]):
            inside = 0 <= top + ky < o["in_h"] and 0 <= left + kx < o["in_w"]
            source = ((top + ky - first) * o["in_w"] + left + kx) * o["channels"]
            for c in range(o["channels"]):
                act[at + c] = line[source + c] if inside else 0
            at += o["channels"]
    for b in range(at, end):
        act[b] = 0
