"""Matrix sequencer: weight loader, pass list, stream and activation reads; kernels, one clock cycle each.

A conv is worked on in two places. The loader walks its list of (tap, place, part) entries, one per segment and pass,
and brings their weights to the shadow registers. When a pass is loaded and the stream before is over, list and
geometry are copied to the stream, which issues a pixel per cycle, or one every `steps` cycles where words share banks.
"""

from typing import Any

from npu_sim.kernel import inlined, kernel
from npu_sim.register.front import (
    CONV,
    FREE,
    GEOM,
    ISSUE_END,
    LOAD,
    LOADED,
    LOADING,
    MATRIX,
    PORTS,
    SHADOW,
    START,
    STORE,
    TOKENS,
    VECTOR,
    accept,
    release,
    setup,
    take,
    take_ports,
    window_regions,
)
from npu_sim.register.state import (
    CONV_WORD,
    GEOM_WORD,
    GROUP,
    PIXEL_RING,
    STREAM_CONV,
    STREAM_GEOM,
    Array,
    Front,
    Matrix,
)

SHADOW_LIST, ACTIVE_LIST = range(2)


@kernel
def decide(t: int, r: Any, f: Front, mx: Matrix) -> bool:
    """Accept, take tokens and ports, start a pass: whatever is due in this cycle. Return whether anything was."""
    engine, ld, stream = r["engine"][MATRIX], r["loader"], r["stream"]
    done = False
    if engine["state"] == FREE and accept(t, MATRIX, r, f):
        done = True
        if f.program[engine["op"]]["kind"] == CONV:
            begin_conv(engine["op"], r, f)
    if engine["state"] == TOKENS:
        word = f.program[engine["op"]]
        first = (1 << LOAD | 1 << STORE) if word["kind"] == CONV else 15
        if take(MATRIX, word["pop"] & first, r):
            done = True
            if word["kind"] == CONV:
                engine["state"] = SHADOW
            else:
                set_geometry(engine["op"], r, f)
                setup(t, MATRIX, r, f)
    if engine["state"] == SHADOW and ld["shadow_wait"] == 0:
        engine["state"] = LOADING
    if engine["state"] == LOADED and not stream["active"]:
        if not ld["pass_first"]:
            start_pass(r, mx)
            done = True
        elif take(MATRIX, f.program[engine["op"]]["pop"] & 1 << VECTOR, r):
            engine["state"] = PORTS
            done = True
    if engine["state"] == PORTS:
        g, o, size = r["word"][GEOM_WORD], r["word"][CONV_WORD], r["sizes"]["region_words"]
        reads = window_regions(o["act_base"], o["act_row0"], g, o, ld["group_low"], ld["group_high"], size)
        if take_ports(MATRIX, reads, 0, r, f):
            f.times[engine["op"], START] = t
            start_pass(r, mx)
            done = True
    return done


@kernel
def set_geometry(op: int, r: Any, f: Front) -> None:
    """Do what geom or groups does."""
    word = f.program[op]
    if word["kind"] == GEOM:
        r["word"][GEOM_WORD] = word
        return
    for i in range(f.table.shape[2]):
        place = r["place"][word["first"] + i]
        place["group"], place["shift"] = f.table[op, 0, i], f.table[op, 1, i]


@kernel
def begin_conv(op: int, r: Any, f: Front) -> None:
    """Copy an accepted conv to the loader; find how many of its places lie below the boundary."""
    r["word"][CONV_WORD] = f.program[op]
    conv, ld = r["word"][CONV_WORD], r["loader"]
    below = r["boundary"][r["word"][GEOM_WORD]["register"]] - conv["group_first"]
    ld["low"] = min(max(below, 0), conv["group_count"])
    ld["four"] = 1 if ld["low"] > 0 else 0
    ld["place"] = ld["tap_y"] = ld["tap_x"] = ld["part"] = ld["finished"] = 0
    ld["pass_first"], ld["batch"] = 1, 0
    ld["group_low"] = ld["group_high"] = r["place"][conv["group_first"]]["group"]
    for place in range(conv["group_first"], conv["group_first"] + conv["group_count"]):
        ld["group_low"] = min(ld["group_low"], r["place"][place]["group"])
        ld["group_high"] = max(ld["group_high"], r["place"][place]["group"])


@kernel
def start_pass(r: Any, mx: Matrix) -> None:
    """Hand the loaded pass to the stream; the loader goes on with the next one, or is free."""
    engine, ld, stream = r["engine"][MATRIX], r["loader"], r["stream"]
    r["word"][STREAM_GEOM] = r["word"][GEOM_WORD]
    r["word"][STREAM_CONV] = r["word"][CONV_WORD]
    for k in range(mx.entry.shape[1]):
        mx.entry[ACTIVE_LIST, k] = mx.entry[SHADOW_LIST, k]
    stream["active"] = stream["fresh"] = 1
    stream["op"], stream["steps"], stream["four"] = engine["op"], ld["pass_steps"], ld["pass_four"]
    stream["first"], stream["last"] = ld["pass_first"], ld["finished"]
    stream["y"] = stream["x"] = stream["pixel"] = stream["step"] = 0
    ld["shadow_wait"] = r["sizes"]["shadow_free"]
    ld["batch"] = ld["pass_first"] = 0
    engine["state"] = FREE if ld["finished"] else SHADOW


@inlined
def load_rows(t: int, r: Any, mx: Matrix) -> None:
    """Address the next rows of weights: `weight_rows` of the tile per cycle, a new entry for each segment begun."""
    engine, ld, sz = r["engine"][MATRIX], r["loader"], r["sizes"]
    if engine["state"] != LOADING:
        for w in range(mx.fetch.shape[1]):
            mx.fetch[0, w]["row"] = -1
        return
    r["wave"]["load"] = t + 3 + sz["finds"]
    if ld["batch"] == 0:
        ld["pass_four"], ld["pass_steps"] = ld["four"], 1
    for w in range(mx.fetch.shape[1]):
        row = ld["batch"] * sz["weight_rows"] + w
        k, i = row // sz["segment_rows"], row % sz["segment_rows"]
        if i == 0:
            next_entry(k, r, mx)
        address_row(mx.fetch[0, w], row, i, mx.entry[SHADOW_LIST, k], r)
    ld["batch"] += 1
    if ld["batch"] * sz["weight_rows"] == sz["rows"]:
        engine["state"] = LOADED


@kernel
def next_entry(k: int, r: Any, mx: Matrix) -> None:
    """Put the entry pointed to into the shadow list for segment k, if the pass may hold it, and point to the next."""
    ld, entry = r["loader"], mx.entry[SHADOW_LIST, k]
    entry["valid"] = entry["owner"] = entry["part"] = 0  # a half of 8-bit form lies outside the word in 4-bit form
    if ld["finished"] or ld["four"] != ld["pass_four"]:
        return
    g, place = r["word"][GEOM_WORD], r["place"][r["word"][CONV_WORD]["group_first"] + ld["place"]]
    entry["valid"] = 1
    entry["tap_y"], entry["tap_x"], entry["part"], entry["place"] = ld["tap_y"], ld["tap_x"], ld["part"], ld["place"]
    entry["group"], entry["shift"] = place["group"], place["shift"]
    tap = ld["tap_y"] * g["dilation_y"] * g["row_pitch"] + ld["tap_x"] * g["dilation_x"] * g["pixel_pitch"]
    entry["offset"] = tap + entry["group"]
    choose_step(k, r, mx)
    advance(r)


@kernel
def choose_step(k: int, r: Any, mx: Matrix) -> None:
    """Give the word of segment k a cycle of its own among the words of its bank; an equal word before it is shared."""
    entry, banks, step = mx.entry[SHADOW_LIST, k], r["sizes"]["banks"], 0
    entry["owner"] = 1
    for j in range(k):
        other = mx.entry[SHADOW_LIST, j]
        if other["owner"] and other["offset"] % banks == entry["offset"] % banks:
            if other["offset"] == entry["offset"]:
                entry["owner"], entry["step"] = 0, other["step"]
                return
            step += 1
    entry["step"] = step
    r["loader"]["pass_steps"] = max(r["loader"]["pass_steps"], step + 1)


@kernel
def advance(r: Any) -> None:
    """Point to the next entry: parts of a group first, then taps and places in the layer's order, then 8-bit form."""
    ld, g, count = r["loader"], r["word"][GEOM_WORD], r["word"][CONV_WORD]["group_count"]
    ld["part"] += 1
    if ld["part"] * r["sizes"]["segment_rows"] * (1 + ld["four"]) < GROUP:
        return
    ld["part"] = 0
    first, end = (0, ld["low"]) if ld["four"] else (ld["low"], count)
    if not g["tap_fastest"]:
        ld["place"] += 1
        if ld["place"] < end:
            return
        ld["place"] = first
    ld["tap_x"] += 1
    if ld["tap_x"] < g["kernel_w"]:
        return
    ld["tap_x"] = 0
    ld["tap_y"] += 1
    if ld["tap_y"] < g["kernel_h"]:
        return
    ld["tap_y"] = 0
    if g["tap_fastest"]:
        ld["place"] += 1
        if ld["place"] < end:
            return
    ld["place"] = ld["low"]  # all that is in 4-bit form has been
    if ld["four"] and ld["low"] < count:
        ld["four"] = 0
    else:
        ld["finished"] = 1


@kernel
def address_row(fetch: Any, row: int, i: int, entry: Any, r: Any) -> None:
    """Address one row of weights and the row of s_wgt of its place.

    In 4-bit form row i of a segment holds channels 2i and 2i + 1 of its part, in 8-bit form channel i.
    """
    ld, g, conv, sz = r["loader"], r["word"][GEOM_WORD], r["word"][CONV_WORD], r["sizes"]
    fetch["row"], fetch["four"] = row, ld["pass_four"]
    fetch["address"] = fetch["positions"] = -1
    if not entry["valid"]:
        return
    block = conv["weight_addr"] * GROUP
    tap = entry["place"] * g["kernel_h"] * g["kernel_w"] + entry["tap_y"] * g["kernel_w"] + entry["tap_x"]
    channel = (entry["part"] * sz["segment_rows"] + i) * (1 + ld["pass_four"])
    fetch["address"] = block + conv["group_count"] * sz["position_bytes"] + (tap * GROUP + channel) * sz["cols"]
    if ld["pass_four"]:
        fetch["positions"] = block + entry["place"] * sz["position_bytes"]


@inlined
def read_rows(cols: int, mx: Matrix, weight: Array) -> None:
    """Read the addressed rows of weights and of s_wgt from the weight memory.

    Where positions are found, the swap comes a cycle later, and the addresses wait for a cycle: rows may be written
    neither sooner nor later than they are (PIPELINES.md section 3).
    """
    read = len(mx.fetch) - 1
    for w in range(mx.fetch.shape[1]):
        fetch = mx.fetch[read - 1, w]
        mx.fetch[read, w] = fetch
        if fetch["row"] < 0:
            continue
        count = 0 if fetch["address"] < 0 else cols * (1 + fetch["four"])
        raw, row = mx.raw[w], weight[max(fetch["address"], 0) :]
        for c in range(count):
            raw[c] = row[c]
        for c in range(count, 3 * cols):
            raw[c] = 0
        if fetch["positions"] >= 0:
            nibbles, pairs = raw[2 * cols :], weight[fetch["positions"] :]
            for pair in range(cols // 2):
                nibbles[2 * pair], nibbles[2 * pair + 1] = pairs[pair] & 15, pairs[pair] >> 4
    if read == 2:
        for w in range(mx.fetch.shape[1]):
            mx.fetch[1, w] = mx.fetch[0, w]


@inlined
def issue_pixel(t: int, flush: int, r: Any, f: Front, mx: Matrix) -> None:
    """Address the words of one step of a pixel, each segment its own, with its own padding test."""
    stream, pixel, segments = r["stream"], r["pixel"][t % PIXEL_RING], mx.segment[t % PIXEL_RING]
    pixel["go"] = pixel["swap"] = 0
    if not stream["active"]:
        for k in range(len(segments)):
            segments[k]["read"] = 0
        return
    g, conv = r["word"][STREAM_GEOM], r["word"][STREAM_CONV]
    if stream["fresh"]:
        pixel["swap"] = 1 + stream["four"]
        stream["fresh"] = 0
    y0 = (conv["out_y"] + stream["y"]) * g["stride_y"] - g["pad_top"]
    x0 = (conv["out_x"] + stream["x"]) * g["stride_x"] - g["pad_left"]
    base = conv["act_base"] + (y0 - conv["act_row0"]) * g["row_pitch"] + x0 * g["pixel_pitch"]
    for k in range(len(segments)):
        entry, segment = mx.entry[ACTIVE_LIST, k], segments[k]
        segment["part"], segment["shift"] = entry["part"], entry["shift"]
        segment["read"] = 1 if not entry["valid"] or entry["step"] == stream["step"] else 0
        y, x = y0 + entry["tap_y"] * g["dilation_y"], x0 + entry["tap_x"] * g["dilation_x"]
        inside = 0 <= y < g["in_h"] and 0 <= x < g["in_w"]
        segment["address"] = base + entry["offset"] if inside and entry["valid"] else -1
    r["wave"]["array"] = t + flush
    stream["step"] += 1
    if stream["step"] == stream["steps"]:
        complete_pixel(t, r, f)


@kernel
def complete_pixel(t: int, r: Any, f: Front) -> None:
    """Send the pixel on with its accumulator row; after the last one the stream is over."""
    stream, pixel, g, conv = r["stream"], r["pixel"][t % PIXEL_RING], r["word"][STREAM_GEOM], r["word"][STREAM_CONV]
    last = stream["pixel"] + 1 == conv["tile_h"] * conv["tile_w"]
    pixel["go"], pixel["four"], pixel["unsigned"], pixel["dynamic"] = 1, stream["four"], g["unsigned"], g["dynamic"]
    pixel["row"] = conv["acc_half"] * r["sizes"]["acc_rows"] + conv["acc_row"] + stream["pixel"]
    pixel["accumulate"] = 0 if stream["first"] and not conv["accumulate"] else -1
    pixel["last"] = 1 if last and stream["last"] else 0
    stream["step"] = 0
    stream["pixel"] += 1
    stream["x"] += 1
    if stream["x"] == conv["tile_w"]:
        stream["x"] = 0
        stream["y"] += 1
    if last:
        stream["active"] = 0
        if stream["last"]:
            f.times[stream["op"], ISSUE_END] = t + 1
            release(MATRIX, stream["op"], r, f)


@inlined
def read_words(t: int, mx: Matrix, act: Array) -> None:
    """Read the addressed words; each waits in its segment's register until the pixel is complete."""
    segments = mx.segment[(t - 1) % PIXEL_RING]
    for k in range(len(segments)):
        segment, word = segments[k], mx.word[0, k]
        if segment["read"]:
            at = segment["address"] * GROUP
            if at >= 0:
                for b in range(GROUP):
                    word[b] = act[at + b]
            else:
                for b in range(GROUP):
                    word[b] = 0
