"""Random small machines, and the few that a compiled RTL stands for."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from npu_isa.machine.config import MachineConfig

from npu_sim.random_programs.draft import WORD, aside

# What the RTL is compiled for: all else of a random machine stays random. Sizes that do not divide each other, banks
# that collide, queues and token FIFOs that fill up, both extractions.
_KEYS = (
    *("array_rows", "array_cols", "weight_rows_per_cycle", "dynamic_extraction"),
    *("act_banks", "acc_rows", "queue_depth", "token_depth"),
)
RTL_SIZES: tuple[dict[str, int], ...] = tuple(
    dict(zip(_KEYS, sizes, strict=True))
    for sizes in (
        (2, 2, 2, True, 1, 19, 2, 2),
        (4, 4, 1, True, 3, 25, 4, 3),
        (8, 8, 8, True, 4, 33, 3, 2),
        (16, 16, 2, False, 2, 32, 4, 4),
        (24, 2, 1, True, 3, 30, 6, 2),
        (32, 4, 4, False, 4, 40, 3, 2),
    )
)


BUFFERS = (64, 96, 160, 1024)  # instructions that a fetch buffer holds


def random_machine(rng: np.random.Generator) -> MachineConfig:
    """Return a small consistent machine."""
    rows = int(rng.choice([2, 4, 8, 8, 16, 32]))
    cols = int(rng.choice([2, 4, 8, 16, 16, 32, 48]))
    banks = int(rng.choice([b for b in (1, 2, 3, 4, 8) if b >= max(1, rows // 8, -(-cols // 16))]))
    bus = int(rng.choice([b for b in (4, 8, 16, 32) if b <= banks * WORD]))
    one_number = aside(rng)  # decides two things: another one would change what else a seed makes
    return MachineConfig(
        name="random",
        array_rows=rows,
        array_cols=cols,
        weight_rows_per_cycle=int(rng.choice([d for d in (1, 2, 4) if rows % d == 0])),
        dynamic_extraction=one_number < 0.5,
        act_region_bytes=WORD * banks * (int(rng.integers(90, 200)) // banks),
        act_banks=banks,
        weight_memory_bytes=WORD * int(rng.integers(12, 26)) * max(cols, 8) * 2,
        param_memory_bytes=4 * cols * int(rng.integers(8, 40)),
        acc_rows=int(rng.integers(8, 40)),
        vector_taps=int(rng.integers(1, 5)),
        dram_bytes=1 << 20,
        dram_bytes_per_cycle=bus,
        dram_latency_cycles=int(rng.integers(1, 60)),
        dram_burst_bytes=bus * int(rng.choice([1, 2, 4])),
        instruction_words=BUFFERS[int(one_number * 64) % len(BUFFERS)],
        queue_depth=int(rng.integers(2, 6)),
        token_depth=int(rng.integers(2, 6)),
        clock_hz=1e9,
    ).check()


def with_speeds(machine: MachineConfig, rng: np.random.Generator) -> MachineConfig:
    """Return the machine with other rows and speeds; what programs compute and which are valid does not change."""
    rows = int(rng.choice([machine.array_rows, *(8 * k for k in range(1, machine.act_banks + 1))]))
    bus = int(rng.choice([b for b in (4, 8, 16, 32) if b <= machine.act_banks * 16]))
    return replace(
        machine,
        array_rows=rows,
        weight_rows_per_cycle=int(rng.choice([d for d in range(1, rows + 1) if rows % d == 0])),
        vector_taps=int(rng.integers(1, 10)),
        dram_bytes_per_cycle=bus,
        dram_burst_bytes=int(rng.choice([b for b in (bus, 4 * bus, 1024) if b <= 1024])),
        dram_latency_cycles=int(rng.choice([1, 2, 17, 200])),
        queue_depth=int(rng.integers(2, 6)),
    ).check()


def with_sizes(machine: MachineConfig, sizes: Mapping[str, int]) -> MachineConfig:
    """Return a machine with the sizes of a compiled RTL."""
    banks, cols = sizes["act_banks"], sizes["array_cols"]
    bus = min(machine.dram_bytes_per_cycle, banks * WORD)
    return replace(
        machine,
        array_rows=sizes["array_rows"],
        array_cols=cols,
        weight_rows_per_cycle=sizes["weight_rows_per_cycle"],
        dynamic_extraction=bool(sizes["dynamic_extraction"]),
        act_banks=banks,
        acc_rows=sizes["acc_rows"],
        queue_depth=sizes["queue_depth"],
        token_depth=sizes["token_depth"],
        act_region_bytes=WORD * banks * (140 // banks),
        param_memory_bytes=4 * cols * machine.param_rows,
        weight_memory_bytes=WORD * 20 * max(cols, 8) * 2,
        dram_bytes_per_cycle=bus,
        dram_burst_bytes=bus * (machine.dram_burst_bytes // machine.dram_bytes_per_cycle),
    ).check()
