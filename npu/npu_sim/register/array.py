"""Extraction, array, segment shifters, total chain and accumulators: kernels, one clock cycle each.

Position of a pixel that is complete in cycle t (its last word addressed): word register t + 1, extraction t + 2, row i
of segment k and column c at t + 3 + i + k + c, shifter of segment k after its last row, total of the last segment one
cycle per segment later, then accumulator read, add, write. Where positions are found at run time, that is done in
t + 2, and all that follows is a cycle later. Nothing here counts these cycles: they are the registers that a value
passes.

Indices that are known not to be negative are made unsigned where it counts: Numba then leaves out the wrap-around.
"""

from typing import Any

import numpy as np

from npu_sim.kernel import inlined, kernel
from npu_sim.register.state import EIGHT, GROUP, PIXEL_RING, REWIND, Array, Matrix, Pe

S_WGT, S_SHADOW = range(2)  # of Pe.shift


@kernel
def signed8(byte: int) -> Any:
    """Return the value of a two's complement byte."""
    return byte - 256 if byte > 127 else byte


@kernel
def extract_rows(t: int, r: Any, mx: Matrix, pe: Pe) -> None:
    """Lower the rows of weights that were read and put them at the top of the weight skew."""
    wave, sz, any_row, cols = r["wave"], r["sizes"], False, pe.line.shape[3]
    at = (wave["line_head"] + wave["line_count"]) % len(pe.line)
    for w in range(pe.line.shape[1]):
        fetch, line, to = mx.fetch[len(mx.fetch) - 1, w], pe.line[at, w], pe.line_to[at, w]
        to[0] = -1
        if fetch["row"] < 0:
            continue
        any_row = True
        i = fetch["row"] % sz["segment_rows"]
        to[0], to[2] = fetch["row"] // sz["segment_rows"], 1 if i == 0 else 0
        to[1] = (i * sz["segments"] + to[0]) * cols
        lower_row(fetch["four"], mx.raw[w], cols, mx.unit[0], line)
    if any_row:
        pe.line_born[at] = t
        wave["line_count"] += 1


@inlined
def lower_row(four: int, raw: Array, cols: int, unit: Array, line: Array) -> None:
    """Put the 8 bits of each column's weight, one int8 or two 4-bit codes, and s_wgt into a row of the skew."""
    odd, position = raw[cols:], raw[2 * cols :]
    for c in range(cols):
        s = position[c]
        line[0, c] = unit[s, odd[c]] * 16 + (unit[s, raw[c]] & 15) if four else unit[EIGHT, raw[c]]
        line[1, c] = s


@inlined
def write_shadow(t: int, r: Any, pe: Pe) -> None:
    """Write what leaves the weight skew to the shadow: column c of segment k, k + c cycles after extraction."""
    wave, segments = r["wave"], r["sizes"]["segments"]
    lines, batch, cols = pe.line.shape[0], pe.line.shape[1], pe.line.shape[3]
    at = wave["line_head"]
    for _ in range(wave["line_count"]):
        for w in range(batch):
            k, x = pe.line_to[at, w, 0], pe.line_to[at, w, 1]
            c = t - pe.line_born[at] - k
            if k >= 0 and 0 <= c < cols:
                pe.shadow[np.uint64(x + c)] = pe.line[at, w, 0, np.uint64(c)]
                if pe.line_to[at, w, 2]:
                    pe.shift[S_SHADOW, k * cols + c] = pe.line[at, w, 1, c]
        at = 0 if at + 1 == lines else at + 1
    if t - pe.line_born[wave["line_head"]] >= cols + segments - 2:
        wave["line_head"] = 0 if wave["line_head"] + 1 == lines else wave["line_head"] + 1
        wave["line_count"] -= 1


@inlined
def enter_swap(t: int, r: Any, pe: Pe) -> None:
    """Send the swap of a new pass on its way, one cycle ahead of the pass's first words."""
    wave, swap = r["wave"], r["pixel"][(t - 1 - r["sizes"]["finds"]) % PIXEL_RING]["swap"]
    if swap:
        at = (wave["swap_head"] + wave["swap_count"]) % len(pe.swap)
        pe.swap[at, 0], pe.swap[at, 1] = t, swap - 1
        wave["swap_count"] += 1


@inlined
def step_swap(t: int, r: Any, pe: Pe) -> None:
    """Take over the shadow weights of the processing elements, and s_wgt of the shifters, that a swap has reached."""
    wave, segments, rows, cols = r["wave"], r["sizes"]["segments"], r["sizes"]["segment_rows"], pe.acc.shape[1]
    at = wave["swap_head"]
    for _ in range(wave["swap_count"]):
        reached, four = t - 1 - pe.swap[at, 0], pe.swap[at, 1]
        for i in range(rows):
            for k in range(segments):
                c = reached - i - k
                if 0 <= c < cols:
                    take_over(four, np.uint64((i * segments + k) * cols + c), pe.weight, pe.shadow)
        for k in range(segments):
            c = reached - rows - k
            if 0 <= c < cols:
                pe.shift[S_WGT, k * cols + c] = pe.shift[S_SHADOW, k * cols + c]
        at = 0 if at + 1 == len(pe.swap) else at + 1
    if t - 1 - pe.swap[wave["swap_head"], 0] >= rows + segments + cols - 2:
        wave["swap_head"] = 0 if wave["swap_head"] + 1 == len(pe.swap) else wave["swap_head"] + 1
        wave["swap_count"] -= 1


@inlined
def take_over(four: int, x: int, weight: Array, shadow: Array) -> None:
    """Take over one processing element's shadow weights, and the form of the pass."""
    bits = np.int64(shadow[x])
    weight[0, x] = signed4(bits) if four else bits
    weight[1, x] = bits >> 4 if four else 0


@inlined
def signed4(bits: int) -> Any:
    """Return the value of the low four bits in two's complement."""
    return ((bits & 15) ^ 8) - 8


@inlined
def find_positions(t: int, r: Any, mx: Matrix) -> None:
    """Find the positions of a complete pixel's words: what the bits of all 16 magnitudes of a group ask for."""
    pixel, segments = r["pixel"][(t - 2) % PIXEL_RING], mx.segment[(t - 2) % PIXEL_RING]
    if not pixel["go"]:
        return
    for k in range(len(segments)):
        word, held, magnitudes = mx.word[0, k], mx.word[1, k], 0
        for b in range(GROUP):
            held[b] = word[b]
            magnitudes |= 255 - word[b] if word[b] > 127 and not pixel["unsigned"] else word[b]
        if pixel["dynamic"]:
            length = 0
            while magnitudes >> length:
                length += 1
            segments[k]["shift"] = max(length - (4 if pixel["unsigned"] else 3) - segments[k]["shift"], 0)


@inlined
def extract_pixel(t: int, r: Any, mx: Matrix, pe: Pe) -> None:
    """Lower the words of a complete pixel and put them, s_act and control into the skew."""
    finds = r["sizes"]["finds"]
    pixel, segments = r["pixel"][(t - 2 - finds) % PIXEL_RING], mx.segment[(t - 2 - finds) % PIXEL_RING]
    if not pixel["go"]:
        return
    rows, mask, four = r["sizes"]["segment_rows"], len(pe.skew_act) - 1, pixel["four"]
    for k in range(len(segments)):
        part, shift, at = segments[k]["part"] * rows, segments[k]["shift"], t + 1 + k
        unit = mx.unit[pixel["unsigned"], shift if four else EIGHT]
        if four:
            enter_four(at, k, mx.word[finds, k, 2 * part :], unit, rows, pe.skew_act)
        else:
            enter_eight(at, k, mx.word[finds, k, part:], unit, rows, pe.skew_act)
        pe.skew_shift[(at + rows) & mask, k] = shift if four else 0
    control = pe.skew_control[(t + 1 + rows + len(segments)) & mask]
    control[0], control[1], control[2] = pixel["row"], pixel["accumulate"], pixel["last"]
    if four:
        r["wave"]["odd"] = t + rows + len(segments) + pe.acc.shape[1] + 1


@inlined
def enter_four(at: int, k: int, word: Array, unit: Array, rows: int, skew: Array) -> None:
    """Send a segment's part of a word into the skew in 4-bit form: two channels in each row."""
    mask, segments = len(skew) - 1, skew.shape[1] // 2 // rows
    for i in range(rows):
        slot, row = np.uint64(at + i & mask), np.uint64(i * segments + k)
        skew[slot, row] = unit[word[2 * i]]
        skew[slot, row + np.uint64(rows * segments)] = unit[word[2 * i + 1]]


@inlined
def enter_eight(at: int, k: int, word: Array, unit: Array, rows: int, skew: Array) -> None:
    """Send a segment's part of a word into the skew in 8-bit form: one channel in each row."""
    mask, segments = len(skew) - 1, skew.shape[1] // 2 // rows
    for i in range(rows):
        skew[np.uint64(at + i & mask), np.uint64(i * segments + k)] = unit[word[i]]


@inlined
def multiply_even(psum: Array, above: Array, act: Array, weight: Array) -> None:
    """Step every processing element while no pixel in the array is in 4-bit form: odd weights are zero."""
    for x in range(len(psum)):
        psum[x] = above[x] + np.int16(act[x] * weight[x])


@inlined
def multiply(psum: Array, above: Array, act0: Array, act1: Array, weight0: Array, weight1: Array) -> None:
    """Step every processing element: one 8-bit or two 4-bit products, added to the partial sum from above."""
    for x in range(len(psum)):
        psum[x] = above[x] + np.int16(act0[x] * weight0[x] + act1[x] * weight1[x])


@inlined
def join(total: Array, before: Array, psum: Array, s_act: Array, s_wgt: Array) -> None:
    """Shift each segment's sum and add it to the total of the segment before."""
    for x in range(len(total)):
        total[x] = np.int32(before[x] + (psum[x] << np.int32(s_act[x] + s_wgt[x])))


@inlined
def move_right(buffer: Array, head: int, count: int, edge: Array, cols: int) -> None:
    """Move `count` registers, which began one place behind `head`, one column to the right; column 0 takes the edge.

    All move by one place, so the place where they begin moves instead.
    """
    right = buffer[head:]
    for row in range(count // cols):
        right[row * cols] = edge[row]


@kernel
def rewind(buffer: Array, count: int) -> None:
    """Bring registers that begin at place 0 to the end of their buffer, last one first: the places may overlap."""
    room = len(buffer) - count
    for x in range(count - 1, -1, -1):
        buffer[room + x] = buffer[x]


@inlined
def accumulate(control: Array, total: Array, stage: Array, acc: Array) -> Any:
    """Step read, add and write of each column's accumulators; return 1 when the last pixel of a conv was written."""
    cols = acc.shape[1]
    row, adds = control[: cols + 2], control[cols + 2 :]
    for c in range(cols):
        done, read = stage[2, c], acc[np.uint32(row[c]), c] & adds[c]
        stage[2, c] = np.int32(stage[0, c] + np.int64(stage[1, c]))
        stage[0, c], stage[1, c] = read, total[c]
        acc[np.uint32(row[c + 2]), c] = done
    return control[3 * (cols + 2) - 1]


@inlined
def step_array(t: int, r: Any, pe: Pe) -> Any:
    """Step array, shifters, totals and accumulators; return 1 when the last pixel of a conv was written."""
    old, new, wave = t & 1, 1 - (t & 1), r["wave"]
    n, s, cols, controls = pe.weight.shape[1], pe.shift.shape[1], pe.acc.shape[1], pe.skew_control.shape[1]
    if wave["head"] == 0:
        rewind(pe.act, 2 * n)
        rewind(pe.s_act, s)
        rewind(pe.control, controls * (cols + 2))
        wave["head"] = REWIND
    head, at = wave["head"], t + 1 & (len(pe.skew_act) - 1)
    act, s_act, control, entering = pe.act[head:], pe.s_act[head:], pe.control[head:], pe.skew_control[at]
    ended = accumulate(control, pe.total[old, s:], pe.stage, pe.acc)
    join(pe.total[new, cols:], pe.total[old, :s], pe.psum[old, n:], s_act, pe.shift[S_WGT])
    odd = t <= wave["odd"]
    if odd:
        multiply(pe.psum[new, s:], pe.psum[old, :n], act, act[n:], pe.weight[0], pe.weight[1])
    else:
        multiply_even(pe.psum[new, s:], pe.psum[old, :n], act, pe.weight[0])
    wave["head"] = head - 1
    move_right(pe.act, head - 1, 2 * n if odd else n, pe.skew_act[at], cols)
    move_right(pe.s_act, head - 1, s, pe.skew_shift[at], cols)
    move_right(pe.control, head - 1, controls * (cols + 2), entering, cols + 2)
    entering[0], entering[1], entering[2] = len(pe.acc) - 1, 0, 0
    return ended
