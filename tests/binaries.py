"""Binaries and instructions for tests: compiled from random networks, or anything that the tables allow."""

from dataclasses import fields, replace

import numpy as np
from hypothesis import strategies as st
from npu_compiler.backend.link import compile_quantized
from npu_isa.file.binary import Binary, DialStep, InputInfo, LayerInfo, OutputInfo, data_address
from npu_isa.file.manifest import PER_INSTRUCTION
from npu_isa.isa.codec import encode
from npu_isa.isa.program import Instruction
from npu_isa.isa.tables import ENGINES, FRONT, SPECS
from npu_isa.machine.config import SHIPPED, MachineConfig, load_machine

from tests.qgraphs import random_qgraph

SMALL = replace(
    load_machine("npu16"),
    name="small",
    array_rows=8,
    array_cols=16,
    act_region_bytes=16384,
    weight_memory_bytes=65536,
    param_memory_bytes=16384,
    acc_rows=64,
    dram_bytes=1 << 20,
).check()

TINY = replace(SMALL, name="tiny", array_rows=4, array_cols=4, vector_taps=2).check()  # a word takes four column tiles


def small_binary(seed: int, machine: MachineConfig = SMALL) -> Binary:
    """Return a random network of a few layers, compiled for a small machine."""
    return compile_quantized(random_qgraph(np.random.default_rng(seed), steps=3), machine)


def same_binary(a: Binary, b: Binary, *, location: bool = True) -> bool:
    """Whether two binaries agree in every field; `location` includes the lines of the assembly source."""
    for field in fields(Binary):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            if (location or field.name != "location_of") and (x.dtype != y.dtype or not np.array_equal(x, y)):
                return False
        elif isinstance(x, InputInfo):
            blank = np.zeros(0, np.uint8)
            if replace(x, table=blank) != replace(y, table=blank) or not np.array_equal(x.table, y.table):
                return False
        elif x != y:
            return False
    return True


@st.composite
def instructions(draw) -> Instruction:
    """Draw an instruction with any legal operands and tokens."""
    spec = draw(st.sampled_from(SPECS))
    operands = {}
    for o in spec.operands:
        value = st.sampled_from([o.least, o.most, o.default]) | st.integers(o.least, o.most)
        operands[o.name] = draw(st.tuples(*[value] * o.repeat) if o.repeat else value)
    legal = 0 if spec.engine == FRONT else (1 << len(ENGINES)) - 1 ^ 1 << ENGINES.index(spec.engine)
    pop, push = (draw(st.integers(0, 15)) & legal for _ in range(2))
    return Instruction(spec.name, operands, pop, push)


labels = st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")) | st.sampled_from(' ;"\\'), max_size=12)
reals = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def layers(draw) -> tuple[LayerInfo, ...]:
    """Draw layers, some of one name, some with a boundary register."""
    found, register = [], 0
    for _ in range(draw(st.integers(0, 4))):
        dial = draw(st.booleans())
        groups = draw(st.integers(1, 256)) if dial else 0
        found.append(
            LayerInfo(
                name=draw(labels | st.just("twin")),
                onnx_nodes=tuple(draw(st.lists(labels, max_size=3))),
                kind=draw(st.sampled_from(["conv", "window"])),
                register=register if dial else -1,
                groups=groups,
                boundaries=(0, *sorted(draw(st.sets(st.integers(1, groups), max_size=4)))) if dial else (0,),
                macs=draw(st.integers(0, 1 << 62)),
                out=draw(labels),
            )
        )
        register += dial
    return tuple(found)


@st.composite
def any_binaries(draw) -> Binary:
    """Draw a binary that the container accepts; its program is a list of anything."""
    code = encode(draw(st.lists(instructions(), min_size=1, max_size=8)))
    held = np.frombuffer(draw(st.binary(max_size=200)), np.uint8)
    network = draw(layers())
    channels, groups = draw(st.integers(1, 20)), draw(st.integers(1, 2))
    real = draw(st.integers(1, 16 * groups))
    order = draw(st.permutations([*range(real), *[-1] * (16 * groups - real)]))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    info = InputInfo(
        name=draw(labels), address=data_address(held.size, len(code)) + draw(st.integers(0, 9)),
        height=height, width=width, channels=channels,
        signed=draw(st.booleans()), scale=draw(reals.filter(lambda x: x > 0)), pixel_scale=draw(reals),
        mean=tuple(draw(st.lists(reals, min_size=1, max_size=3))),
        std=tuple(draw(st.lists(reals, min_size=1, max_size=3))),
        resize=draw(st.sampled_from([(), (3,), (4, 5)])), crop=draw(st.sampled_from([(), (1, 1)])),
        table=np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (channels, 256), np.uint8),
    )  # fmt: skip
    out = OutputInfo(
        name=draw(labels), address=info.address + info.bytes + draw(st.integers(0, 9)), height=height, width=width,
        channels=16 * groups, bits=draw(st.sampled_from([8, 16])), signed=draw(st.booleans()),
        scale=draw(reals.filter(lambda x: x > 0)), channel_map=tuple(order),
        shape=draw(st.sampled_from([(real, height, width), (real * height * width,)])),
    )  # fmt: skip
    numbers = st.sampled_from([-1, 0, (1 << 31) - 1])
    columns = [st.integers(-1, len(network) - 1), numbers, numbers, st.integers(0, 99)]
    per_instruction = {
        name: np.array([draw(column) for _ in code], np.int32)
        for name, column in zip(PER_INSTRUCTION, columns, strict=True)
    }
    return Binary(
        model=draw(labels), machine=draw(machines()), code=code, constants=held,
        dram_bytes=out.address + out.bytes + draw(st.integers(0, 9)), input=info, outputs=(out,), layers=network,
        dial=_dial(network), dial_macs=draw(st.integers(1 << 40, 1 << 62)),
        notes=tuple(draw(st.lists(labels, max_size=2))),
        **per_instruction,
    )  # fmt: skip


@st.composite
def machines(draw) -> MachineConfig:
    """Draw a shipped machine, or one that goes by another name and clock."""
    machine = load_machine(draw(st.sampled_from(SHIPPED)))
    name, clock = draw(labels.filter(bool)), draw(st.floats(1, 1e14))
    return draw(st.sampled_from([machine, replace(machine, name=name, clock_hz=clock)]))


def _dial(network: tuple[LayerInfo, ...]) -> tuple[DialStep, ...]:
    steps = [(layer.register, b) for layer in network if layer.register >= 0 for b in layer.boundaries[1:]]
    return tuple(DialStep(register=r, boundary=b, low_macs=100 * i) for i, (r, b) in enumerate(steps))
