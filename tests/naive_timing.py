"""The timing rules of isa_spec/MICROARCHITECTURE.md sections 4 and 5, one cycle at a time.

A twin of npu_sim.fast.time.model, written from that page alone: every cycle, every engine takes a step and says what it
did with the cycle. Nothing is computed ahead but how long a pipeline is.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from npu_isa.isa.ops import Conv, Engine, Fold, Halt, Load, Op, Setup, Table, Vec
from npu_isa.machine.config import MachineConfig

from tests import naive_durations as durations
from tests.naive_footprint import regions

DISPATCH_TO_ACCEPT = 1
SHADOW_FREE = 8  # cycles after the first pixel of a pass in which the shadow weights are still needed
VECTOR_PIPELINE = 7
NEVER = -1
FETCHED = 32  # instructions of a block that the front end fetches, of 32 bytes each
PATIENCE = 2000  # cycles in which nothing moves but pipelines
ORDER = (Engine.MATRIX, Engine.VECTOR, Engine.STORE, Engine.LOAD)
NAMES = {e: e.name.lower() for e in Engine}
FRONT = "front"  # the front end, as a client of the bus
CLIENTS = (Engine.LOAD, Engine.STORE, FRONT)  # the next one behind the one served last goes first


class DeadlockError(Exception):
    """Nothing can go on."""


@dataclass(eq=False)
class Flight:
    """An operation on its way.

    Attributes:
        dispatch, accept, start, issue_end, end: cycles, as the page defines them.
        wanted: engines of which tokens are still to be taken; a conv takes that of the vector engine later.
        script: what the engine does in each cycle from the start on, the next one at `at`; transfers have blocks.
        last_pass: place in the script of the first pixel of the last pass; its cycle is `last_pass_start`.
        weights_left: cycles of weight load still to come before the first pass.
        blocks: bus cycles of the blocks still to be moved; `moved` those that are over.
        pixels: of a fold, still to be made: bus cycles that each needs.
        pipeline: cycles from the issue end to the end of the work.
        reads, writes: regions whose ports it takes, as bit masks.
    """

    op: Op
    dispatch: int
    accept: int = NEVER
    start: int = NEVER
    issue_end: int = NEVER
    ports_end: int = NEVER
    work_end: int = NEVER
    end: int = NEVER
    wanted: list[Engine] = field(default_factory=list)
    wanted_later: list[Engine] = field(default_factory=list)
    unnamed: list[int] = field(default_factory=list)  # cycles of waiting that the last token will name
    script: list[str] = field(default_factory=list)
    at: int = 0
    last_pass: int = 0
    last_pass_start: int = NEVER
    weights_left: int = 0
    blocks: deque[int] = field(default_factory=deque)
    moved: int = 0
    pixels: deque[int] = field(default_factory=deque)
    pipeline: int = 0
    reads: int = 0
    writes: int = 0

    @property
    def is_setup(self) -> bool:
        return isinstance(self.op, Setup)


@dataclass(eq=False)
class Fetch:
    """The front end's side of the bus, and its buffer.

    Attributes:
        todo: words of the blocks that it has not asked for yet.
        held: words asked for, until the cycle after their dispatch.
        block: words of the block on the bus.
        pipe: words on their way behind the bus: first cycle in which they can be dispatched, how many.
        words: that can be dispatched.
        sent: one was dispatched in this cycle: its place is free from the next on.
        missing: nothing could be dispatched in this cycle, since the next word was not there.
    """

    todo: deque[int]
    held: int = 0
    block: int = 0
    pipe: deque[tuple[int, int]] = field(default_factory=deque)
    words: int = 0
    sent: bool = False
    missing: bool = False


@dataclass(eq=False)
class EngineState:
    """One engine: its queue, the operation it has accepted, and those that have started and not ended.

    Attributes:
        spent: per cycle (instruction, cause), with instruction NEVER when all are done.
    """

    engine: Engine
    todo: deque[Op]  # not dispatched yet
    queue: deque[Flight] = field(default_factory=deque)
    hand: Flight | None = None
    working: Flight | None = None  # started, its issue not ended; setups work beside it
    setting_up: Flight | None = None  # a setup that starts in this cycle
    flying: list[Flight] = field(default_factory=list)
    last: Flight | None = None  # the last one that started, but for setups
    no_room: bool = False  # one has done its work and waits for room for its tokens
    spent: list[tuple[int, str]] = field(default_factory=list)


class Twin:
    """A program on a machine at a boundary vector; `run` steps it to its end.

    Attributes:
        flights: per instruction but the halt.
        engines: with `spent`, what each did with each cycle.
        total_cycles: the largest end.
    """

    def __init__(self, ops: Sequence[Op], machine: MachineConfig, boundaries: Sequence[int]) -> None:
        self.machine = machine
        self.boundaries = boundaries
        self.program = deque(op for op in ops if not isinstance(op, Halt))
        words = len(self.program) + 1  # and the halt
        self.fetch = Fetch(deque(min(FETCHED, words - first) for first in range(0, words, FETCHED)))
        self.flights: dict[int, Flight] = {}
        self.engines = {e: EngineState(e, deque(op for op in self.program if op.engine == e)) for e in Engine}
        self.fifo: dict[tuple[int, int], deque[int]] = {(a, b): deque() for a in Engine for b in Engine}
        self.read_ports: list[list[Flight]] = [[] for _ in range(4)]
        self.write_ports: list[list[Flight]] = [[] for _ in range(4)]
        self.served: Flight | None = None  # whose block the bus moves; None: the front end's
        self.bus_left = 0
        self.bus_cycles = dict.fromkeys((*Engine, FRONT), 0)  # in which it moved bytes for each of them
        self.served_last = FRONT  # so that load goes first
        self.now = 0
        self.quiet = 0
        self.total_cycles = 0

    def run(self) -> "Twin":
        """Step until everything has ended.

        Raises:
            DeadlockError: nothing happens any more.
        """
        while True:
            self.finish()
            self.receive()
            if (
                not self.program
                and self.fetch.words
                and all(not (e.queue or e.hand or e.flying) for e in self.engines.values())
            ):
                self.total_cycles = self.now
                return self
            self.dispatch()
            for engine in ORDER:
                self.accept(self.engines[engine])
                self.advance(self.engines[engine])
            self.grant()
            self.label()
            self.work()
            self.now += 1
            self.quiet += 1
            if self.quiet > PATIENCE:
                raise DeadlockError(f"cycle {self.now}")

    # -- first: ends, freed ports, given tokens

    def finish(self) -> None:
        for state in self.engines.values():
            in_order, state.no_room = True, False
            for f in list(state.flying):
                if f.ports_end != NEVER and f.ports_end <= self.now:
                    self.free_ports(f)
                done = in_order and f.work_end != NEVER and f.work_end <= self.now
                if done and self.has_room(f):
                    self.give(f)
                    f.end = self.now
                    state.flying.remove(f)
                    self.quiet = 0
                else:
                    in_order = False
                    state.no_room |= done

    def free_ports(self, f: Flight) -> None:
        for ports in (self.read_ports, self.write_ports):
            for holders in ports:
                if f in holders:
                    holders.remove(f)

    def has_room(self, f: Flight) -> bool:
        takers = [t for t in Engine if f.op.push >> t & 1]
        return all(len(self.fifo[f.op.engine, t]) < self.machine.token_depth for t in takers)

    def give(self, f: Flight) -> None:
        for t in Engine:
            if f.op.push >> t & 1:
                self.fifo[f.op.engine, t].append(self.now)

    # -- the front end

    def receive(self) -> None:
        """Take words that have come through the pipe; free the place of the word dispatched in the cycle before."""
        fetch = self.fetch
        fetch.held -= fetch.sent
        while fetch.pipe and fetch.pipe[0][0] <= self.now:
            fetch.words += fetch.pipe.popleft()[1]

    def dispatch(self) -> None:
        fetch = self.fetch
        fetch.sent, fetch.missing = False, not fetch.words
        if not self.program or fetch.missing:
            return
        state = self.engines[self.program[0].engine]
        if len(state.queue) < self.machine.queue_depth:
            op = self.program.popleft()
            state.todo.popleft()
            f = self.prepared(op)
            self.flights[op.index] = f
            state.queue.append(f)
            fetch.words -= 1
            fetch.sent = True
            self.quiet = 0

    def boundary(self, register: int) -> int:
        return self.boundaries[register] if register < len(self.boundaries) else 0

    def prepared(self, op: Op) -> Flight:
        """Return an operation as dispatched now, with what it will do in each cycle."""
        machine = self.machine
        f = Flight(op, self.now, wanted=[e for e in Engine if op.pop >> e & 1])
        f.reads, f.writes = regions(op, machine)
        if isinstance(op, Conv):
            f.wanted_later = [e for e in f.wanted if e == Engine.VECTOR]
            f.wanted = [e for e in f.wanted if e != Engine.VECTOR]
            self.write_conv_script(f, op)
        elif isinstance(op, Vec):
            f.script = ["busy" for _ in durations.vec_script(op, machine)]
            f.pipeline = VECTOR_PIPELINE
        elif isinstance(op, Table):
            f.script = ["busy"] * durations.table_cycles(machine)
            f.pipeline = VECTOR_PIPELINE
        elif not f.is_setup:
            register = op.register if isinstance(op, Load) else 255
            f.blocks = deque(durations.blocks(op, self.boundary(register), machine))
            f.pixels = deque(durations.fold_beats(op, machine) if isinstance(op, Fold) else [])
            f.pipeline = machine.dram_latency_cycles
        return f

    def write_conv_script(self, f: Flight, op: Conv) -> None:
        rows, columns = self.machine.array_rows, self.machine.array_cols
        f.weights_left = rows // self.machine.weight_rows_per_cycle
        factors = durations.passes(op, self.boundary(op.geom.register), self.machine)
        for number, k in enumerate(factors):
            f.last_pass = len(f.script)
            f.script += (["stream"] + ["bank"] * (k - 1)) * op.pixels
            interval = f.weights_left + SHADOW_FREE
            if number < len(factors) - 1:
                f.script += ["weights"] * (interval - k * op.pixels)
        before = 3 if self.machine.dynamic_extraction else 2  # words, positions, extraction
        f.pipeline = before + min(8, rows) + max(1, rows // 8) + (columns - 1) + 3

    # -- then the engines

    def accept(self, state: EngineState) -> None:
        """Take the next instruction from the queue if the engine is free for it."""
        if state.hand is not None or not state.queue:
            return
        f = state.queue[0]
        if self.now < f.dispatch + DISPATCH_TO_ACCEPT:
            return
        if state.no_room or state.setting_up or not self.free_for(state, f):
            return
        state.hand = state.queue.popleft()
        f.accept = self.now
        self.quiet = 0

    def free_for(self, state: EngineState, f: Flight) -> bool:
        working = state.working
        if working is not None and isinstance(working.op, Conv):
            return working.last_pass_start != NEVER and self.now >= working.last_pass_start + 1
        if working is not None:
            return False
        fence = isinstance(f.op, Vec) and f.op.fence
        return not (fence and state.last is not None and state.last.end == NEVER)

    def advance(self, state: EngineState) -> None:
        """Take tokens, load weights, take ports and start, as far as this cycle allows."""
        f = state.hand
        if f is None:
            return
        if not self.take(f, f.wanted):
            return
        ready = f.weights_left == 0 and (f.is_setup or state.working is None)  # and the stream before has ended
        if not ready or not self.take(f, f.wanted_later) or not self.ports_free(f):
            return
        for ports, mask in ((self.read_ports, f.reads), (self.write_ports, f.writes)):
            for r in range(4):
                if mask >> r & 1:
                    ports[r].append(f)
        f.start = self.now
        state.hand = None
        state.flying.append(f)
        if f.is_setup:
            state.setting_up = f
        else:
            state.last = state.working = f
        self.quiet = 0

    def take(self, f: Flight, givers: list[Engine]) -> bool:
        """Take the tokens wanted, together, if all are there; then nothing is wanted any more."""
        fifos = [self.fifo[e, f.op.engine] for e in givers]
        if not all(fifos):
            return False
        if givers:
            came = {e: fifo.popleft() for e, fifo in zip(givers, fifos, strict=True)}
            last = next(e for e in givers if came[e] == max(came.values()))
            for cycle in f.unnamed:
                self.engines[f.op.engine].spent[cycle] = (f.op.index, f"token_{NAMES[last]}")
            f.unnamed.clear()
            givers.clear()
            self.quiet = 0
        return True

    def ports_free(self, f: Flight) -> bool:
        return all(
            g.op.engine == f.op.engine
            for ports, mask in ((self.read_ports, f.reads), (self.write_ports, f.writes))
            for r in range(4)
            if mask >> r & 1
            for g in ports[r]
        )

    # -- then the bus

    def grant(self) -> None:
        if self.bus_left:
            return
        last = CLIENTS.index(self.served_last)
        for client in CLIENTS[last + 1 :] + CLIENTS[: last + 1]:
            if client == FRONT:
                fetch = self.fetch
                if fetch.todo and fetch.held + FETCHED <= self.machine.instruction_words:
                    self.served, self.served_last = None, FRONT
                    fetch.block = fetch.todo.popleft()
                    fetch.held += fetch.block
                    self.bus_left = durations.code_cycles(fetch.block, self.machine)
                    return
            else:
                f = self.engines[client].working
                if f is not None and f.blocks:
                    self.served, self.served_last = f, client
                    self.bus_left = f.blocks[0]
                    return

    # -- what each engine does with the cycle

    def label(self) -> None:
        for state in self.engines.values():
            state.spent.append(self.cause(state))

    def cause(self, state: EngineState) -> tuple[int, str]:
        f = state.working
        if f is not None:
            if f.script:
                return f.op.index, f.script[f.at]
            waits = f.blocks and self.served is not f and self.bus_left
            return f.op.index, "dram" if waits else "busy"
        if state.setting_up is not None:
            return state.setting_up.op.index, "setup"
        if state.hand is not None:
            return state.hand.op.index, self.waiting(state.hand)
        if state.queue and self.now >= state.queue[0].dispatch + DISPATCH_TO_ACCEPT:
            op = state.queue[0].op
            return op.index, "drain" if isinstance(op, Vec) and op.fence else "token_full"
        if state.queue or state.todo:
            op = state.queue[0].op if state.queue else state.todo[0]
            return op.index, "fetch" if self.fetch.missing else "queue"
        return NEVER, "idle"

    def waiting(self, f: Flight) -> str:
        if f.wanted:
            f.unnamed.append(self.now)
            return "token"
        if f.weights_left:
            return "weights"
        return "token_vector" if f.wanted_later else "port"

    def work(self) -> None:
        """Use the cycle: scripts go on, weights are loaded, the bus moves bytes."""
        for state in self.engines.values():
            if state.hand is not None and state.hand.weights_left:
                self.load_weights(state, state.hand)
            if state.working is not None and state.working.script:
                self.follow_script(state, state.working)
            if state.setting_up is not None:
                self.issued(state.setting_up)
                state.setting_up = None
        if self.bus_left:
            self.quiet = 0
            self.bus_cycles[self.served_last] += 1
            self.bus_left -= 1
            if self.served is not None:
                self.served.moved += 1
            if self.bus_left == 0 and self.served is not None:
                self.served.blocks.popleft()
            elif self.bus_left == 0:
                self.fetch.pipe.append((self.now + 1 + self.machine.dram_latency_cycles, self.fetch.block))
        for engine in (Engine.LOAD, Engine.STORE):
            state = self.engines[engine]
            f = state.working
            if f is not None and f.pixels and f.pixels[0] <= f.moved:
                self.quiet = 0
                f.pixels.popleft()
            if f is not None and not f.blocks and not f.pixels:
                self.issued(f)
                state.working = None

    def follow_script(self, state: EngineState, f: Flight) -> None:
        self.quiet = 0
        if f.at == f.last_pass:
            f.last_pass_start = self.now
        f.at += 1
        if f.at == len(f.script):
            self.issued(f)
            state.working = None

    def load_weights(self, state: EngineState, f: Flight) -> None:
        """Write one part of the first pass's weights to the shadow registers, unless they are still needed."""
        before = state.last
        if not f.wanted and (before is None or self.now >= before.last_pass_start + SHADOW_FREE):
            f.weights_left -= 1

    def issued(self, f: Flight) -> None:
        f.issue_end = self.now + 1
        f.work_end = f.issue_end + f.pipeline
        f.ports_end = f.issue_end if isinstance(f.op, Conv) else f.work_end
