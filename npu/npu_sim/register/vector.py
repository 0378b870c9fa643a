"""Vector engine: parameter rows, window and accumulator reads, seven stages; kernels, one clock cycle each.

A slot is one issue cycle. It addresses a parameter row, the words of one step of a window, an accumulator row or a
residual; the stages after it are read and reduce, bias, multiply, residual, round and clamp, table, write. A row of the
table passes through them unchanged, in place of sums, until it is written in the table's stage.
"""

from typing import Any

import numpy as np

from npu_sim.kernel import kernel
from npu_sim.register.array import signed8
from npu_sim.register.front import (
    FREE,
    ISSUE_END,
    PORTS,
    START,
    TABLE,
    TOKENS,
    VEC,
    VECTOR,
    VGEOM,
    WORK,
    accept,
    finish_oldest,
    setup,
    strided_regions,
    take,
    take_ports,
    window_regions,
)
from npu_sim.register.state import (
    ADDED,
    BIAS,
    BIASED,
    CLAMPED,
    CONTROL_RING,
    GROUP,
    MULT,
    MULT2,
    PRODUCT,
    RES1,
    RES2,
    RES3,
    RESULT,
    SHIFT,
    SHIFT3,
    SHIFT4,
    SUM1,
    TABLE_BYTES,
    VEC_WORD,
    VGEOM_WORD,
    Array,
    Front,
    Memories,
    Vector,
)

ACC, MAC, MAX, SUM = range(4)
MAIN, RESIDUAL, HIGH = range(3)  # parts of a pixel
LEAST = -(1 << 31)
STEP, OWNER = range(2)  # of Vector.step
ADDRESS, CYCLES = range(2)  # of Vector.tap


@kernel
def words_of(o: Any) -> Any:
    """Return the words that one pixel of a vec spans."""
    return (o["out_byte"] + o["lanes"] + GROUP - 1) // GROUP


@kernel
def port_masks(g: Any, o: Any, size: int) -> tuple[int, int]:
    """Return the regions whose read and write ports a vec takes; a `table` takes none."""
    if o["kind"] == TABLE:
        return 0, 0
    words, reads = words_of(o), 0
    if g["source"] != ACC:
        reads = window_regions(o["src_base"], o["src_row0"], g, o, 0, words - 1, size)
    if g["residual"]:
        pitches = g["res_row_pitch"], g["res_pixel_pitch"]
        reads |= strided_regions(o["res_base"], o["tile_h"], o["tile_w"], words, pitches[0], pitches[1], size)
    pitches = g["out_row_pitch"], g["out_pixel_pitch"]
    out = words * (1 + g["wide"])
    return reads, strided_regions(o["out_base"], o["tile_h"], o["tile_w"], out, pitches[0], pitches[1], size)


@kernel
def decide(t: int, r: Any, f: Front) -> bool:
    """Accept, take tokens and ports, start: whatever is due in this cycle. Return whether anything was."""
    engine, done = r["engine"][VECTOR], False
    if engine["state"] == FREE:
        done = accept(t, VECTOR, r, f)
    if engine["state"] == TOKENS:
        word = f.program[engine["op"]]
        if take(VECTOR, word["pop"], r):
            done = True
            if word["kind"] != VGEOM:
                r["word"][VEC_WORD] = word
                engine["state"] = PORTS
            else:
                r["word"][VGEOM_WORD] = word
                setup(t, VECTOR, r, f)
    if engine["state"] == PORTS:
        reads, writes = port_masks(r["word"][VGEOM_WORD], r["word"][VEC_WORD], r["sizes"]["region_words"])
        if take_ports(VECTOR, reads, writes, r, f):
            f.times[engine["op"], START] = t
            engine["state"] = WORK
            begin(r)
            done = True
    return done


@kernel
def begin(r: Any) -> None:
    """Set the counters for a vec or a `table`."""
    reg, g = r["vector"], r["word"][VGEOM_WORD]
    reg["param"] = reg["y"] = reg["x"] = reg["part"] = reg["tap_y"] = reg["tap_x"] = reg["sub"] = 0
    if r["word"][VEC_WORD]["kind"] == TABLE:
        reg["params"] = r["sizes"]["table_rows"]
        return
    reg["params"] = r["sizes"]["param_rows"]
    if g["source"] == MAC:
        reg["params"] += (g["kernel_h"] * g["kernel_w"] + 3) // 4


@kernel
def plan_window(r: Any, v: Vector) -> None:
    """Give each word of a kernel row its cycle: in a step words of one bank follow each other, equal words are one.

    The same for every pixel and kernel row; worked out while the parameter rows are read, the first of which is issued
    in the cycle in which the last words of the vec before are read by its own plan.
    """
    g, taps = r["word"][VGEOM_WORD], r["sizes"]["taps"]
    words, distance = words_of(r["word"][VEC_WORD]), g["dilation_x"] * g["pixel_pitch"]
    for first in range(0, g["kernel_w"], taps):
        v.tap[CYCLES, first] = 1
        for tap in range(first, min(first + taps, g["kernel_w"])):
            for w in range(words):
                choose_step(v.step, first, tap, w, words, distance, r["sizes"]["banks"])
                v.tap[CYCLES, first] = max(v.tap[CYCLES, first], v.step[STEP, tap, w] + 1)


@kernel
def choose_step(step: Array, first: int, tap: int, word: int, words: int, distance: int, banks: int) -> None:
    """Give a word the next cycle that its bank has free in the step, or that of an equal word before it."""
    offset, cycle = tap * distance + word, 0
    step[OWNER, tap, word] = 1
    for i in range(first * words, tap * words + word):
        j, w = i // words, i % words
        other = j * distance + w
        if step[OWNER, j, w] and other % banks == offset % banks:
            if other == offset:
                step[OWNER, tap, word] = 0
                step[STEP, tap, word] = step[STEP, j, w]
                return
            cycle += 1
    step[STEP, tap, word] = cycle


@kernel
def issue(t: int, r: Any, f: Front, v: Vector) -> None:
    """Issue one slot of the vec or `table` at work; at its last slot the engine is free for the next one."""
    engine, reg, read, control = r["engine"][VECTOR], r["vector"], r["read"], r["control"][t % CONTROL_RING]
    read["param"] = read["acc_row"] = read["residual"] = -1
    read["taps"] = read["raw"] = 0
    control["go"] = control["high"] = control["row"] = control["last"] = 0
    if engine["state"] != WORK:
        return
    g, o = r["word"][VGEOM_WORD], r["word"][VEC_WORD]
    reg["until"] = t + CONTROL_RING
    if reg["param"] < reg["params"]:
        read["param"], read["index"] = o["param_addr"] + reg["param"], reg["param"]
        reg["param"] += 1
        if o["kind"] == TABLE:
            read["raw"], control["row"] = 1, reg["param"]
            if reg["param"] == reg["params"]:
                end_issue(t, control, r, f)
        elif reg["param"] == 1 and g["source"] != ACC:
            plan_window(r, v)
        return
    read["source"], read["src_unsigned"], read["res_unsigned"] = g["source"], g["src_unsigned"], g["res_unsigned"]
    read["byte"], read["lanes"] = o["out_byte"], o["lanes"]
    if reg["part"] == MAIN:
        issue_main(r, v)
    if reg["part"] == RESIDUAL or (g["residual"] and g["source"] == ACC and reg["part"] == MAIN):
        read["residual"] = o["res_base"] + reg["y"] * g["res_row_pitch"] + reg["x"] * g["res_pixel_pitch"]
        read["product"] = g["product"]
    if reg["part"] == HIGH:
        control["high"] = 1
    over = reg["tap_y"] == g["kernel_h"] or g["source"] == ACC
    if over and next_part(control, r) and reg["y"] == o["tile_h"]:
        end_issue(t, control, r, f)


@kernel
def end_issue(t: int, control: Any, r: Any, f: Front) -> None:
    """Issue the last slot of an instruction."""
    engine = r["engine"][VECTOR]
    control["last"] = 1
    f.times[engine["op"], ISSUE_END] = t + 1
    engine["state"] = FREE


@kernel
def next_part(control: Any, r: Any) -> bool:
    """Go on to the pixel's residual or second word; return whether the pixel is over and the next one set up."""
    reg, g, o = r["vector"], r["word"][VGEOM_WORD], r["word"][VEC_WORD]
    if reg["part"] == MAIN and g["residual"] and g["source"] != ACC:
        reg["part"] = RESIDUAL
        return False
    if reg["part"] != HIGH:
        complete(control, r)
        if g["wide"]:
            reg["part"] = HIGH
            return False
    reg["part"] = MAIN
    reg["tap_y"] = reg["tap_x"] = 0
    reg["x"] += 1
    if reg["x"] == o["tile_w"]:
        reg["x"] = 0
        reg["y"] += 1
    return True


@kernel
def complete(control: Any, r: Any) -> None:
    """Send the pixel's sum on with everything that the later stages need."""
    reg, g, o = r["vector"], r["word"][VGEOM_WORD], r["word"][VEC_WORD]
    control["go"] = 1
    control["out"] = o["out_base"] + reg["y"] * g["out_row_pitch"] + reg["x"] * g["out_pixel_pitch"]
    control["byte"], control["lanes"] = o["out_byte"], o["lanes"]
    control["wide"], control["leaky"], control["table"] = g["wide"], g["leaky"], g["table"]
    control["residual"] = 1 if g["residual"] and not g["product"] else 0
    control["low"], control["high_limit"] = g["clamp_low"], g["clamp_high"]


@kernel
def issue_main(r: Any, v: Vector) -> None:
    """Address an accumulator row, or those words of a step of the window that have this cycle."""
    reg, read, g, o = r["vector"], r["read"], r["word"][VGEOM_WORD], r["word"][VEC_WORD]
    taps = r["sizes"]["taps"]
    if g["source"] == ACC:
        row = o["src_base"] + reg["y"] * o["tile_w"] + reg["x"]
        read["acc_row"] = o["acc_half"] * r["sizes"]["acc_rows"] + row
        return
    if reg["sub"] == 0:
        address_step(r, v)
    read["taps"] = min(taps, g["kernel_w"] - reg["tap_x"])
    read["tap"] = reg["tap_y"] * g["kernel_w"] + reg["tap_x"]
    read["first"], read["sub"] = reg["tap_x"], reg["sub"]
    reg["sub"] += 1
    if reg["sub"] < v.tap[CYCLES, reg["tap_x"]]:
        return
    reg["sub"] = 0
    reg["tap_x"] += taps
    if reg["tap_x"] >= g["kernel_w"]:
        reg["tap_x"] = 0
        reg["tap_y"] += 1


@kernel
def address_step(r: Any, v: Vector) -> None:
    """Address the taps of a step."""
    reg, g, o = r["vector"], r["word"][VGEOM_WORD], r["word"][VEC_WORD]
    y = (o["out_y"] + reg["y"]) * g["stride_y"] - g["pad_top"] + reg["tap_y"] * g["dilation_y"]
    for j in range(min(r["sizes"]["taps"], g["kernel_w"] - reg["tap_x"])):
        x = (o["out_x"] + reg["x"]) * g["stride_x"] - g["pad_left"] + (reg["tap_x"] + j) * g["dilation_x"]
        v.tap[ADDRESS, j] = -1
        if 0 <= y < g["in_h"] and 0 <= x < g["in_w"]:
            v.tap[ADDRESS, j] = o["src_base"] + (y - o["src_row0"]) * g["row_pitch"] + x * g["pixel_pitch"]


@kernel
def stages(t: int, r: Any, f: Front, v: Vector, acc: Array, memories: Memories) -> None:
    """Step the pipeline, last stage first."""
    slots, lanes = r["control"], v.lanes
    writing = slots[(t - 7) % CONTROL_RING]
    write(writing, r["vector"], lanes[RESULT], memories.act)
    if writing["last"]:
        finish_oldest(VECTOR, TABLE if writing["row"] else VEC, r, f)
        writing["last"] = 0
    table_stage(slots[(t - 6) % CONTROL_RING], v)
    clamp(slots[(t - 5) % CONTROL_RING], lanes)
    add_residual(slots[(t - 4) % CONTROL_RING], lanes)
    multiply(slots[(t - 3) % CONTROL_RING], lanes)
    add_bias(slots[(t - 2) % CONTROL_RING], lanes)
    read_stage(r, v, acc, memories)


@kernel
def read_stage(r: Any, v: Vector, acc: Array, memories: Memories) -> None:
    """Read what the slot addressed and reduce it."""
    read, lanes = r["read"], v.lanes
    for c in range(lanes.shape[1]):
        lanes[RES3, c], lanes[RES2, c] = lanes[RES2, c], lanes[RES1, c]
    if read["param"] >= 0:
        read_param(read["param"], read["index"], read["raw"], v, memories.param)
    if read["acc_row"] >= 0:
        for c in range(lanes.shape[1]):
            lanes[SUM1, c] = acc[read["acc_row"], c]
    for j in range(read["taps"]):
        for w in range((read["byte"] + read["lanes"] + GROUP - 1) // GROUP):
            if v.step[STEP, read["first"] + j, w] == read["sub"]:
                reduce_word(j, w, read, v, memories.act)
    if read["residual"] >= 0:
        at = read["residual"] * GROUP + read["byte"]
        for c in range(read["lanes"]):
            byte = np.int64(memories.act[at + c])
            lanes[RES1, c] = byte if read["res_unsigned"] else signed8(byte)
            if read["product"]:  # by the first tap's multiplier: 9 x 9 bits
                lanes[SUM1, c] = lanes[SUM1, c] * lanes[RES1, c]


@kernel
def reduce_word(j: int, w: int, read: Any, v: Vector, act: Array) -> None:
    """Reduce the lanes of word w of tap j."""
    source, tap, byte, total = read["source"], read["tap"] + j, read["byte"], v.lanes[SUM1]
    for c in range(max(w * GROUP - byte, 0), min((w + 1) * GROUP - byte, read["lanes"])):
        if tap == 0:
            total[c] = LEAST if source == MAX else 0
        if v.tap[ADDRESS, j] < 0:
            continue
        value = np.int64(act[v.tap[ADDRESS, j] * GROUP + byte + c])
        value = value if read["src_unsigned"] else signed8(value)
        if source == MAX:
            total[c] = max(total[c], value)
        elif source == MAC:
            total[c] = wrap32(total[c] + value * signed8(v.weights[tap // 4, c] >> 8 * (tap % 4) & 255))
        else:
            total[c] = wrap32(total[c] + value)


@kernel
def wrap32(value: int) -> Any:
    """Return the value that 32 bits hold."""
    return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


@kernel
def read_param(row: int, index: int, raw: int, v: Vector, param: Array) -> None:
    """Bring one row of the parameter block to its registers, or a row of the table to those of the sums."""
    lanes = v.lanes
    for c in range(lanes.shape[1]):
        at, word = (row * lanes.shape[1] + c) * 4, np.int64(0)
        for b in range(4):
            word |= np.int64(param[at + b]) << 8 * b
        if raw:
            lanes[SUM1, c] = word
        elif index == 0:
            lanes[BIAS, c] = wrap32(word)
        elif index == 1:
            lanes[MULT, c], lanes[SHIFT, c] = signed16(word & 0xFFFF), word >> 16 & 63
        elif index == 2:
            lanes[MULT2, c] = signed16(word & 0xFFFF)
        else:
            v.weights[index - 3, c] = word


@kernel
def signed16(bits: int) -> Any:
    """Return the value of 16 bits."""
    return bits - ((bits & 0x8000) << 1)


@kernel
def pass_row(control: Any, lanes: Array, to: int, source: int) -> None:
    """Let a row of the table pass a stage unchanged."""
    if control["row"]:
        for c in range(lanes.shape[1]):
            lanes[to, c] = lanes[source, c]


@kernel
def add_bias(control: Any, lanes: Array) -> None:
    """Stage 2."""
    pass_row(control, lanes, BIASED, SUM1)
    if control["go"]:
        for c in range(lanes.shape[1]):
            lanes[BIASED, c] = lanes[SUM1, c] + lanes[BIAS, c]


@kernel
def multiply(control: Any, lanes: Array) -> None:
    """Stage 3; the shift goes along, because the next block may overwrite its register."""
    pass_row(control, lanes, PRODUCT, BIASED)
    if control["go"]:
        for c in range(lanes.shape[1]):
            below = control["leaky"] and lanes[BIASED, c] < 0
            lanes[PRODUCT, c] = lanes[BIASED, c] * (lanes[MULT2, c] if below else lanes[MULT, c])
            lanes[SHIFT3, c] = lanes[SHIFT, c]


@kernel
def add_residual(control: Any, lanes: Array) -> None:
    """Stage 4."""
    pass_row(control, lanes, ADDED, PRODUCT)
    if control["go"]:
        for c in range(lanes.shape[1]):
            residual = lanes[RES3, c] * lanes[MULT2, c] if control["residual"] else 0
            lanes[ADDED, c] = lanes[PRODUCT, c] + residual
            lanes[SHIFT4, c] = lanes[SHIFT3, c]


@kernel
def clamp(control: Any, lanes: Array) -> None:
    """Stage 5: one rounding."""
    pass_row(control, lanes, CLAMPED, ADDED)
    if control["go"]:
        for c in range(control["lanes"]):
            shift = lanes[SHIFT4, c]
            value = (lanes[ADDED, c] + (np.int64(1) << shift - 1)) >> shift
            lanes[CLAMPED, c] = min(max(value, control["low"]), control["high_limit"])


@kernel
def table_stage(control: Any, v: Vector) -> None:
    """Stage 6: look up a byte in each lane, or write a row of the table to the copies of all lanes."""
    lanes = v.lanes
    if control["row"]:
        for c in range(lanes.shape[1]):
            at = ((control["row"] - 1) * lanes.shape[1] + c) * 4
            for b in range(4 if at < TABLE_BYTES else 0):
                for copy in range(lanes.shape[1]):
                    v.table[copy, at + b] = lanes[CLAMPED, c] >> 8 * b & 255
    if control["go"]:
        for c in range(control["lanes"]):
            value = lanes[CLAMPED, c]
            lanes[RESULT, c] = v.table[c, value & 255] if control["table"] else value


@kernel
def write(control: Any, reg: Any, result: Array, act: Array) -> None:
    """Stage 7: low bytes, or with the second slot of a wide pixel the high bytes to the word behind."""
    if control["go"]:
        reg["out"], reg["out_byte"], reg["out_lanes"] = control["out"], control["byte"], control["lanes"]
        reg["out_wide"] = control["wide"]
    elif not control["high"]:
        return
    high = control["high"]
    for c in range(reg["out_lanes"]):
        word, byte = (reg["out_byte"] + c) // GROUP, (reg["out_byte"] + c) % GROUP
        act[(reg["out"] + word * (1 + reg["out_wide"]) + high) * GROUP + byte] = result[c] >> 8 * high & 255
