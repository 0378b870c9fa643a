"""The clock: one cycle of the whole machine after the other, until the program halts or nothing can happen any more."""

from collections.abc import Callable
from typing import Any

from npu_sim.activity import CAUSES
from npu_sim.kernel import cached, inlined
from npu_sim.register import array, dma, fetch, front, matrix, vector
from npu_sim.register.front import CONV, LOAD, LOADED, LOADING, MATRIX, PORTS, SHADOW, STORE, TOKENS, VECTOR, WORK
from npu_sim.register.state import Front, Machine, Matrix, Memories, Pe
from npu_sim.sources import depend_on, digest

HALTED, STUCK, TOO_LONG = range(3)
STREAM, BANK, WEIGHTS, BUSY, DRAM, TOKEN_VECTOR = (
    CAUSES.index(name) for name in ("stream", "bank", "weights", "busy", "dram", "token_vector")
)


@inlined
def step_stream(t: int, flush: int, r: Any, f: Front, mx: Matrix, pe: Pe, memories: Memories) -> None:
    """Step everything between activation memory and accumulators, last stage first."""
    array.extract_pixel(t, r, mx, pe)
    if r["sizes"]["finds"]:
        array.find_positions(t, r, mx)
    array.enter_swap(t, r, pe)
    if array.step_array(t, r, pe):
        front.finish_oldest(MATRIX, CONV, r, f)
    if r["wave"]["swap_count"] > 0:
        array.step_swap(t, r, pe)
    matrix.read_words(t, mx, memories.act)
    matrix.issue_pixel(t, flush, r, f, mx)


@inlined
def step_loader(t: int, r: Any, mx: Matrix, pe: Pe, memories: Memories) -> None:
    """Step everything between weight memory and shadow weights, last stage first."""
    if r["engine"][MATRIX]["state"] == LOADING or t <= r["wave"]["load"]:
        array.extract_rows(t, r, mx, pe)
        matrix.read_rows(r["sizes"]["cols"], mx, memories.weight)
        matrix.load_rows(t, r, mx)
    if r["wave"]["line_count"] > 0:
        array.write_shadow(t, r, pe)
    if r["loader"]["shadow_wait"] > 0:
        r["loader"]["shadow_wait"] -= 1


@inlined
def observe(r: Any, f: Front) -> None:
    """Note the cause of this cycle of each engine, after the engines have decided and before they work."""
    stream, causes, state = r["stream"], r["causes"], r["engine"][MATRIX]["state"]
    if stream["active"]:
        causes[MATRIX, STREAM if stream["step"] + 1 == stream["steps"] else BANK] += 1
    elif state in (SHADOW, LOADING):
        causes[MATRIX, WEIGHTS] += 1
    elif state == LOADED:
        causes[MATRIX, TOKEN_VECTOR] += 1
    else:
        front.observe_waiting(MATRIX, r, f)
    for e in (LOAD, VECTOR, STORE):
        if r["engine"][e]["state"] != WORK:
            front.observe_waiting(e, r, f)
        elif e == VECTOR:
            causes[e, BUSY] += 1
        else:
            u = 1 if e == STORE else 0
            causes[e, DRAM if r["unit"][u]["asking"] and r["bus"]["owner"] != u else BUSY] += 1


@inlined
def observe_accumulators(t: int, r: Any, pe: Pe) -> None:
    """Note a cycle in which vector and matrix engine read the same half of the accumulators."""
    row, rows, cols = r["read"]["acc_row"], r["sizes"]["acc_rows"], pe.acc.shape[1]
    before = r["wave"]["head"] + 1  # the registers before this clock edge
    for c in range(cols if row >= 0 else 0):
        other, adds = pe.control[before + c], pe.control[before + cols + 2 + c]
        if adds and other // rows == row // rows:
            r["notes"]["double_reads"] += 1
            return


@inlined
def stuck(r: Any, f: Front) -> bool:
    """Return whether nothing is under way; asked in a cycle in which no engine could do anything new."""
    if r["stream"]["active"] or r["fetch"]["there"] < r["fetch"]["asked"]:
        return False
    for e in range(4):
        engine = r["engine"][e]
        state = engine["state"]
        if state in (SHADOW, LOADING):
            return False
        held = 1 if state in (TOKENS, PORTS, LOADED) else 0
        for i in range(engine["count"]):
            if not f.flight[e, (engine["head"] + i) % f.flight.shape[1]]["done"]:
                held -= 1
        if held < 0:
            return False
    return True


def compiled(sources: str) -> Callable[..., Any]:
    """Return the compiled clock.

    Args:
        sources: digest of the package (npu_sim.sources).
    """

    @cached
    def run(m: Machine, flush: int, first: int, end: int) -> tuple[int, int]:
        depend_on(sources)
        r, f = m.registers[0], m.front
        for t in range(first, end):
            word = fetch.next_word(r, f)
            room, news = word and front.has_room(r, f), False
            if r["front"]["ended"]:
                news = front.retire(t, r, f)
            if word and front.at_halt(r, f):
                return HALTED, t
            changed = news or r["front"]["released"] != 0
            r["front"]["released"] = 0
            if front.may_decide(MATRIX, r, changed):
                news |= matrix.decide(t, r, f, m.matrix)
            if front.may_decide(VECTOR, r, changed):
                news |= vector.decide(t, r, f)
            if front.may_decide(STORE, r, changed):
                news |= dma.decide(t, 1, r, f)
            if front.may_decide(LOAD, r, changed):
                news |= dma.decide(t, 0, r, f)
            dma.grant(r, f)
            observe(r, f)
            if not news and not room and stuck(r, f):
                return STUCK, t
            if r["stream"]["active"] or t <= r["wave"]["array"]:
                step_stream(t, flush, r, f, m.matrix, m.pe, m.memories)
            step_loader(t, r, m.matrix, m.pe, m.memories)
            if r["engine"][VECTOR]["state"] == WORK or t <= r["vector"]["until"]:
                observe_accumulators(t, r, m.pe)
                vector.stages(t, r, f, m.vector, m.pe.acc, m.memories)
                vector.issue(t, r, f, m.vector)
            for u in range(2):
                if r["engine"][dma.engine_of(u)]["state"] == WORK or t <= r["unit"][u]["until"]:
                    dma.arrive(t, u, r, f, m.dma, m.memories)
                    dma.issue(t, u, r, f, m.dma, m.memories.act)
            if r["bus"]["owner"] == fetch.FETCHING or t <= r["fetch"]["until"]:
                fetch.code_arrives(t, r, f, m.dma)
                fetch.move_code(t, r, f, m.dma)
            front.end_setup(MATRIX, r, f)
            front.end_setup(VECTOR, r, f)
            if room:
                front.dispatch(t, r, f)
        return TOO_LONG, end

    return run  # type: ignore[no-any-return]


run_clock = compiled(digest("npu_sim.register") + " ".join(CAUSES))  # CAUSES: columns that the kernel captures
