"""What the event loop works on: a program as tables of numbers, the times that it fills in, and its state, one record.

Field names of the state say what they count; `*_at` is the first cycle in which something is so.
"""

from typing import Any, NamedTuple

import numpy as np
from npu_isa.isa.ops import Engine
from npu_isa.machine.config import ACT_REGIONS
from numpy.typing import NDArray

from npu_sim.kernel import record

Array = NDArray[Any]

NEVER = 1 << 62
ENGINES = len(Engine)
LOAD, MATRIX, VECTOR, STORE = (int(e) for e in Engine)
LOADING, STORING, FETCHING = range(3)  # clients of the bus, in the order of its arbitration
CLIENTS = 3
SETUP, CONV, VEC, TRANSFER = range(4)  # kinds of operations; a `table` is like a vec
# columns of the table of times, one row an operation
DISPATCH, ACCEPT, WEIGHTS_TOKENS, TOKENS, READY, START, ISSUE_END, WORK_END, END, LATE, DRAM_WAIT = range(11)
TIMES = 11
# columns of the table of operations
ENGINE, KIND, POP, PUSH, READS, WRITES, CYCLES, LAST, BURSTS, FENCE, TAILS = range(11)
COLUMNS = 11
# stages of the operation at the head of an engine
WAIT_ACCEPT, WAIT_WEIGHTS, WAIT_READY, WAIT_TOKENS, WAIT_PORTS = range(5)

SIZES = record(  # of the machine and its timing rules
    "queue_depth",
    "token_depth",
    "weight_load",
    "shadow_free",
    "array_latency",
    "vector_latency",
    "dram_latency",
    "dispatch_cycles",
    "setup_cycles",
    "burst_cycles",
    "block_bursts",
    "fetch_words",  # words of a block of the program
    "buffer_words",
)
FRONT = record(
    "dispatched",  # operations
    "last_at",  # cycle of the last dispatch
    "fetched",  # blocks that the bus has been given for
    "done",  # operations that have ended
)
QUEUE = record(
    "dispatched",  # operations of an engine, so far
    "accepted",
    "started",
    "ended",
    "stage",  # of the one that was accepted and has not started
    "free_at",  # the engine may accept the next operation
    "missing",  # tokens at the last look, as a mask
)
STREAM = record(
    "last_at",  # first pixel of the last pass
    "end_at",
    "ready_at",  # weights of the conv at the head are there, and the stream before has ended
)
CLIENT = record(
    "op",  # that it moves
    "bursts",  # left to be moved
    "asked_at",  # it asks for its next block
    "tail",  # place in `tails` of the next block, -1 if it has none
    "least_end",  # issue end that the start and the blocks so far allow
)
BUS = record("free_at", "served")  # served: the client whose block was the last
STATE = np.dtype(
    [
        ("sizes", SIZES),
        ("front", FRONT),
        ("queue", QUEUE, (ENGINES,)),
        ("stream", STREAM),
        ("client", CLIENT, (CLIENTS,)),
        ("bus", BUS),
        ("tokens", np.int64, (ENGINES, ENGINES)),  # (giver, taker)
        ("room", np.int64, (ENGINES, ENGINES)),  # for more of them
        ("freed", np.int64, (ENGINES, ENGINES)),  # places that can be used from the next cycle on
        ("holder", np.int64, (2, ACT_REGIONS)),  # last operation on each read and write port
        ("release", np.int64, (2, ACT_REGIONS)),  # cycle from which that port is free
    ],
    align=True,
)


class Run(NamedTuple):
    """A program and what a run of it fills in.

    Attributes:
        state: STATE, one element; see `power_up`.
        ops: int64 (operations, COLUMNS): engine, kind, pop and push masks, region masks of the read and write ports,
            CYCLES (conv: first pixel of the first pass to first pixel of the last; vec, table: issue cycles; transfer:
            least cycles), LAST (conv: cycles of the last pass), BURSTS, FENCE, TAILS (fold: where its blocks stand in
            `tails`; -1: nowhere).
        order: int64: operations of each engine, one engine after the other.
        first_of: int64 (5,): where each engine's operations start in `order`.
        tails: int64 (blocks of folds,): see npu_isa.machine.timing.Transfer.
        blocks: int64: bursts of each block of the program, see npu_isa.machine.timing.fetch_bursts.
        times: int64 (operations, TIMES), NEVER where something has not happened; LATE is the engine whose token came
            last (-1: no wait), DRAM_WAIT the cycles in which the bus served others.
        there: int64, per block of the program: first cycle in which its words can be dispatched.
    """

    state: Array
    ops: Array
    order: Array
    first_of: Array
    tails: Array
    blocks: Array
    times: Array
    there: Array


def power_up(**sizes: int) -> Array:
    """Return the state at START, of a machine whose SIZES are given."""
    state = np.zeros(1, STATE)
    s = state[0]
    assert sizes.keys() == set(SIZES.names or ()), sizes
    for name, size in sizes.items():
        s["sizes"][name] = size
    s["front"]["last_at"] = -1
    s["stream"]["last_at"] = -sizes["shadow_free"]
    s["bus"]["served"] = FETCHING  # load goes first at the beginning
    s["room"] = sizes["token_depth"]
    s["holder"] = -1
    return state
