"""Front end, queues, tokens, ports and the in-order end of every engine: kernels, one clock cycle each.

Kernels of this package work on the state of `npu_sim.register.state`; `r` is the record REGISTERS. Inside a cycle they
are called so that each reads what was in the registers before the clock edge; what they write is what the edge leaves.
"""

from typing import Any

from npu_sim.activity import CAUSES
from npu_sim.kernel import inlined, kernel
from npu_sim.register.state import Front

LOAD, MATRIX, VECTOR, STORE = 0, 1, 2, 3
HALT, GEOM, GROUPS, CONV, VGEOM, VEC, TABLE, LOAD_OP, FOLD, STORE_OP = range(10)
KINDS = ("halt", "geom", "groups", "conv", "vgeom", "vec", "table", "load", "fold", "store")

# state of an engine's issue stage: what the instruction in it waits for, or what it does
FREE, TOKENS, SHADOW, LOADING, LOADED, PORTS, WORK, SETUP = range(8)

DISPATCH, ACCEPT, START, ISSUE_END, END = range(5)  # columns of Front.times
SETTING, PORT, TOKEN_FULL, DRAIN, FETCH, QUEUE = (
    CAUSES.index(name) for name in ("setup", "port", "token_full", "drain", "fetch", "queue")
)
TOKEN = CAUSES.index("token_load")  # and the other engines behind it


@kernel
def retire(t: int, r: Any, f: Front) -> bool:
    """End what has ended its work, each engine in order; give tokens. Return whether anything ended."""
    any_ended = False
    for e in range(4):
        engine = r["engine"][e]
        engine["blocked"] = 0
        while engine["count"] > 0 and f.flight[e, engine["head"]]["done"]:
            op = f.flight[e, engine["head"]]["op"]
            push = f.program[op]["push"]
            for taker in range(4):
                if push >> taker & 1 and r["tokens"][e, taker] >= r["sizes"]["token_depth"]:
                    engine["blocked"] = 1
            if engine["blocked"]:
                break
            for taker in range(4):
                r["tokens"][e, taker] += push >> taker & 1
            f.times[op, END] = t
            engine["head"] = (engine["head"] + 1) % f.flight.shape[1]
            engine["count"] -= 1
            r["front"]["ended"] -= 1
            any_ended = True
    return any_ended


@inlined
def may_decide(e: int, r: Any, changed: bool) -> bool:
    """Return whether this cycle could bring what an engine's issue stage waits for.

    `changed` says that tokens were given or ports became free since the cycle before; nothing else ends those waits.
    """
    state = r["engine"][e]["state"]
    if state == FREE:
        return bool(r["queue"][e]["count"] > 0)
    if state == SHADOW:
        return bool(r["loader"]["shadow_wait"] == 0)
    if state == LOADED:
        return bool(r["stream"]["active"] == 0)
    return changed and state in (TOKENS, PORTS)


@kernel
def accept(t: int, e: int, r: Any, f: Front) -> bool:
    """Take the next instruction out of the queue if the engine can; its issue stage must be free."""
    engine, queue = r["engine"][e], r["queue"][e]
    if queue["count"] == 0 or engine["blocked"]:
        return False
    op = f.queue[e, queue["head"]]
    if f.program[op]["kind"] == VEC and f.program[op]["fence"] and engine["count"] > 0:
        return False
    queue["head"] = (queue["head"] + 1) % f.queue.shape[1]
    queue["count"] -= 1
    slot = (engine["head"] + engine["count"]) % f.flight.shape[1]
    engine["count"] += 1
    engine["slot"], engine["op"], engine["state"] = slot, op, TOKENS
    flight = f.flight[e, slot]
    flight["op"] = op
    flight["done"] = flight["reads"] = flight["writes"] = 0
    f.times[op, ACCEPT] = t
    r["causes"][e, QUEUE] += r["empty"][e]
    r["causes"][e, FETCH] += r["starved"][e]
    r["empty"][e] = r["starved"][e] = 0
    return True


@kernel
def take(e: int, mask: int, r: Any) -> bool:
    """Take one token of every engine in the mask, all together, or none. Return whether they were there."""
    missing = 0
    for giver in range(4):
        if mask >> giver & 1 and r["tokens"][giver, e] == 0:
            missing |= 1 << giver
    if missing:
        r["missing"][e] = missing
        return False
    for giver in range(4):
        r["tokens"][giver, e] -= mask >> giver & 1
        if r["missing"][e] >> giver & 1:  # its token came last: it is what the cycles of the wait are booked on
            r["causes"][e, TOKEN + giver] += r["waiting"][e]
            r["waiting"][e] = 0
    r["missing"][e] = 0
    return True


@kernel
def take_ports(e: int, reads: int, writes: int, r: Any, f: Front) -> bool:
    """Take the ports for the instruction at the issue stage, all together, unless another engine holds one."""
    for other in range(4):
        for region in range(4):
            if other != e and reads >> region & 1 and r["ports"][other, 0, region]:
                return False
            if other != e and writes >> region & 1 and r["ports"][other, 1, region]:
                return False
    flight = f.flight[e, r["engine"][e]["slot"]]
    flight["reads"], flight["writes"] = reads, writes
    for region in range(4):
        r["ports"][e, 0, region] += reads >> region & 1
        r["ports"][e, 1, region] += writes >> region & 1
    return True


@kernel
def slot_of(e: int, op: int, r: Any, f: Front) -> Any:
    """Return where an instruction stands in the list of those that have not ended."""
    slot = r["engine"][e]["head"]
    while f.flight[e, slot]["op"] != op:
        slot = (slot + 1) % f.flight.shape[1]
    return slot


@kernel
def release(e: int, op: int, r: Any, f: Front) -> None:
    """Free the ports of an instruction."""
    flight = f.flight[e, slot_of(e, op, r, f)]
    for region in range(4):
        r["ports"][e, 0, region] -= flight["reads"] >> region & 1
        r["ports"][e, 1, region] -= flight["writes"] >> region & 1
    flight["reads"] = flight["writes"] = 0
    r["front"]["released"] = 1


@kernel
def finish(e: int, op: int, r: Any, f: Front) -> None:
    """Note at the end of a cycle that an instruction's work is done: from the next on ports are free and it may end."""
    release(e, op, r, f)
    f.flight[e, slot_of(e, op, r, f)]["done"] = 1
    r["front"]["ended"] += 1


@kernel
def finish_oldest(e: int, kind: int, r: Any, f: Front) -> None:
    """Finish the oldest instruction of a kind whose work is not done."""
    slot = r["engine"][e]["head"]
    while f.flight[e, slot]["done"] or f.program[f.flight[e, slot]["op"]]["kind"] != kind:
        slot = (slot + 1) % f.flight.shape[1]
    finish(e, f.flight[e, slot]["op"], r, f)


@kernel
def setup(t: int, e: int, r: Any, f: Front) -> None:
    """Run a geom, groups or vgeom that has its tokens: one cycle."""
    engine = r["engine"][e]
    engine["state"] = SETUP
    f.times[engine["op"], START] = t
    f.times[engine["op"], ISSUE_END] = t + 1


@inlined
def end_setup(e: int, r: Any, f: Front) -> None:
    """End the cycle of a geom, groups or vgeom."""
    engine = r["engine"][e]
    if engine["state"] == SETUP:
        finish(e, engine["op"], r, f)
        engine["state"] = FREE


@inlined
def has_room(r: Any, f: Front) -> bool:
    """Return whether the next word, which is there, can go to its queue now; asked before the engines accept."""
    pc = r["front"]["pc"]
    if f.program[pc]["kind"] == HALT:
        return False
    return bool(r["queue"][f.program[pc]["engine"]]["count"] < r["sizes"]["queue_depth"])


@kernel
def dispatch(t: int, r: Any, f: Front) -> None:
    """Move the next instruction to its queue."""
    pc = r["front"]["pc"]
    e = f.program[pc]["engine"]
    queue = r["queue"][e]
    f.queue[e, (queue["head"] + queue["count"]) % f.queue.shape[1]] = pc
    queue["count"] += 1
    f.times[pc, DISPATCH] = t
    r["front"]["pc"] = pc + 1


@inlined
def at_halt(r: Any, f: Front) -> bool:
    """Return whether the next word, which is there, is the halt and every engine has ended everything."""
    if f.program[r["front"]["pc"]]["kind"] != HALT:
        return False
    busy = 0
    for e in range(4):
        busy += r["engine"][e]["count"] + r["queue"][e]["count"]
    return bool(busy == 0)


@kernel
def observe_waiting(e: int, r: Any, f: Front) -> None:
    """Note why an engine that is not at work stands still in this cycle."""
    state = r["engine"][e]["state"]
    if state == SETUP:
        r["causes"][e, SETTING] += 1
    elif state == TOKENS:
        r["waiting"][e] += 1
    elif state == PORTS:
        r["causes"][e, PORT] += 1
    elif r["queue"][e]["count"] == 0 and r["front"]["pc"] >= r["fetch"]["there"]:
        r["starved"][e] += 1
    elif r["queue"][e]["count"] == 0:
        r["empty"][e] += 1
    else:
        word = f.program[f.queue[e, r["queue"][e]["head"]]]
        fence = word["kind"] == VEC and word["fence"]
        r["causes"][e, DRAIN if fence else TOKEN_FULL] += 1


@kernel
def span_regions(first: int, end: int, region_words: int) -> Any:
    """Return the regions of the words first..end - 1 as bits."""
    mask = 0
    for region in range(first // region_words, (end - 1) // region_words + 1):
        mask |= 1 << region
    return mask


@kernel
def strided_regions(base: int, rows: int, cols: int, words: int, row_pitch: int, col_pitch: int, size: int) -> Any:
    """Return the regions between the first and the last word of rows x cols runs of words."""
    return span_regions(base, base + (rows - 1) * row_pitch + (cols - 1) * col_pitch + words, size)


@kernel
def window_regions(base: int, row0: int, g: Any, o: Any, low: int, high: int, size: int) -> Any:
    """Return the regions between the lowest and the highest word of a tile's window that lies inside the image.

    Args:
        base, row0: word address of pixel (row0, 0).
        g: geom or vgeom.
        o: conv or vec.
        low, high: least and greatest group of a pixel.
        size: words of a region.
    """
    y0 = max(o["out_y"] * g["stride_y"] - g["pad_top"], 0)
    x0 = max(o["out_x"] * g["stride_x"] - g["pad_left"], 0)
    y1 = (o["out_y"] + o["tile_h"] - 1) * g["stride_y"] - g["pad_top"] + (g["kernel_h"] - 1) * g["dilation_y"]
    x1 = (o["out_x"] + o["tile_w"] - 1) * g["stride_x"] - g["pad_left"] + (g["kernel_w"] - 1) * g["dilation_x"]
    y1, x1 = min(y1, g["in_h"] - 1), min(x1, g["in_w"] - 1)
    if y1 < y0 or x1 < x0:
        return 0
    first = base + (y0 - row0) * g["row_pitch"] + x0 * g["pixel_pitch"] + low
    return span_regions(first, base + (y1 - row0) * g["row_pitch"] + x1 * g["pixel_pitch"] + high + 1, size)
