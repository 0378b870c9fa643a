"""Programs of a few instructions written by hand: activation memory filled from the image, a body, all of it stored.

Their values are compared as those of random programs (`tests.value_models`); the static check has to accept them.
"""

from dataclasses import dataclass, field

import numpy as np
from npu_isa.file.binary import data_address
from npu_isa.isa.ops import Memory
from npu_isa.isa.program import Instruction
from npu_isa.machine.config import MachineConfig
from npu_sim.random_programs.programs import RandomProgram
from npu_sim.random_programs.tokens import with_tokens

WORD = 16
ONE_TAP = dict.fromkeys(("kernel_h", "kernel_w", "stride_y", "stride_x", "dilation_y", "dilation_x"), 1)
NO_PAD = {"pad_top": 0, "pad_left": 0, "in_h": 1, "in_w": 1}
BYTES = {"clamp_low": -128, "clamp_high": 127, "wide": 0}
WIDE = {"clamp_low": -(1 << 15), "clamp_high": (1 << 15) - 1, "wide": 1}


def small_machine(columns: int = 16, act_words: int = 512, **changes) -> MachineConfig:
    """Return a machine with 8 rows and a small activation memory."""
    sizes = {
        "name": "bench",
        "array_rows": 8,
        "array_cols": columns,
        "weight_rows_per_cycle": 1,
        "dynamic_extraction": False,
        "act_region_bytes": act_words // 4 * WORD,
        "act_banks": 8,
        "weight_memory_bytes": 1 << 20,
        "param_memory_bytes": 4 * columns * 512,
        "acc_rows": 64,
        "vector_taps": 3,
        "dram_bytes": 1 << 24,
        "dram_bytes_per_cycle": 16,
        "dram_latency_cycles": 20,
        "dram_burst_bytes": 64,
        "instruction_words": 4096,
        "queue_depth": 4,
        "token_depth": 64,
        "clock_hz": 1e9,
    }
    return MachineConfig(**(sizes | changes)).check()


@dataclass
class Bench:
    """Collects a body and its constants; `program` makes it whole.

    Weight blocks and parameter blocks are loaded where they are asked for, one behind the other.
    """

    machine: MachineConfig
    body: list[Instruction] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)
    legal: dict[int, tuple[int, ...]] = field(default_factory=dict)
    dram_spare_bytes: int = 0
    weight_next: int = 0
    param_next: int = 0

    def put(self, name: str, **operands) -> None:
        self.body.append(Instruction(name, operands))

    def load(self, memory: Memory, dram_addr: int, run: int, addr: int, **operands) -> None:
        zero = ("dram_row_pitch", "dram_col_pitch", "row_pitch", "col_pitch")
        rest = dict.fromkeys((*zero, "indexed", "register", "table_pitch", "table_entries"), 0)
        fields = {"memory": int(memory), "dram_addr": dram_addr, "rows": 1, "cols": 1, "run": run, "addr": addr}
        self.put("load", **(rest | fields | operands))

    def constant(self, memory: Memory, data: bytes, addr: int) -> None:
        """Load constants to a memory."""
        self.load(memory, len(self.constants), len(data), addr)
        self.constants += data

    def weights(self, positions: np.ndarray, weight: np.ndarray) -> int:
        """Load a weight block and return its address.

        Args:
            positions: s_wgt, (places, columns).
            weight: int8 (places, taps, 16, columns).
        """
        places, columns = positions.shape
        row = np.zeros((places, -(-columns // 32) * 32), np.uint8)
        row[:, :columns] = positions
        data = (row[:, ::2] | row[:, 1::2] << 4).tobytes() + weight.astype(np.int8).tobytes()
        at, self.weight_next = self.weight_next, self.weight_next + len(data) // WORD
        self.constant(Memory.WEIGHT, data, at)
        return at

    def params(self, bias, mult, shift, second, taps: np.ndarray | None = None) -> int:
        """Load a parameter block and return its first row; each argument is a number or one per column.

        Args:
            taps: int8 (taps, columns), of a multiply-add.
        """
        columns = self.machine.array_cols
        head = np.zeros((3, columns), np.int64)
        head[0], head[1], head[2] = (
            bias,
            np.asarray(mult) & 0xFFFF | np.asarray(shift) << 16,
            np.asarray(second) & 0xFFFF,
        )
        count = 0 if taps is None else -(-len(taps) // 4)
        tail = np.zeros((count * 4, columns), np.int8)
        if taps is not None:
            tail[: len(taps)] = taps
        rows = tail.reshape(count, 4, columns).transpose(0, 2, 1).tobytes()
        at, self.param_next = self.param_next, self.param_next + 3 + count
        self.constant(Memory.PARAM, (head & 0xFFFFFFFF).astype("<u4").tobytes() + rows, at)
        return at

    def table(self, table: np.ndarray) -> None:
        """Load a table, uint8 (256,), to parameter memory and from there to the vector engine."""
        row = 4 * self.machine.array_cols
        rows = -(-256 // row)
        at, self.param_next = self.param_next, self.param_next + rows
        self.constant(Memory.PARAM, table.astype(np.uint8).tobytes() + bytes(rows * row - 256), at)
        self.put("table", param_addr=at)

    def vgeom(self, source: int = 0, **operands) -> None:
        """Put a vgeom: one tap, dense single words, bytes, unless told otherwise."""
        names = ("row_pitch", "pixel_pitch", "res_row_pitch", "res_pixel_pitch", "src_unsigned", "residual")
        rest = dict.fromkeys((*names, "res_unsigned", "leaky", "product", "table"), 0)
        out = {"out_row_pitch": 0, "out_pixel_pitch": 1}
        self.put("vgeom", source=source, **(ONE_TAP | NO_PAD | rest | out | BYTES | operands))

    def vec(self, **operands) -> None:
        """Put a vec: one pixel of all columns, unless told otherwise."""
        names = ("src_base", "src_row0", "acc_half", "out_y", "out_x", "out_byte", "res_base", "param_addr", "fence")
        rest = dict.fromkeys(names, 0) | {"tile_h": 1, "tile_w": 1, "lanes": self.machine.array_cols}
        self.put("vec", **(rest | operands))

    def program(self) -> RandomProgram:
        """Return the whole program, accepted by the static check; the image is the activation memory."""
        act_bytes, first = self.machine.act_words * WORD, data_address(len(self.constants), len(self.body) + 3)
        last = first + act_bytes + self.dram_spare_bytes
        whole = Bench(self.machine)
        whole.load(Memory.ACT, first, act_bytes, 0)
        whole.body += self.body
        strides = dict.fromkeys(("dram_row_pitch", "dram_col_pitch", "row_pitch", "col_pitch"), 0)
        whole.put("store", dram_addr=last, rows=1, cols=1, run=act_bytes, addr=0, **strides)
        whole.put("halt")
        made = RandomProgram(
            machine=self.machine,
            instructions=with_tokens(whole.body, self.machine),
            constants=np.frombuffer(bytes(self.constants), np.uint8),
            dram_bytes=last + act_bytes,
            input_range=(first, first + act_bytes),
            output_range=(last, last + act_bytes),
            registers=len(self.legal),
            legal=self.legal,
        )
        made.check()
        return made


MAGNITUDES = (7, 8, 15, 16, 31, 32, 63, 64, 127)


def positions_bench(machine: MachineConfig, unsigned: int) -> tuple[RandomProgram, np.ndarray]:
    """Return a program whose positions depend on single bytes, and its image, uint8 (1, bytes).

    16 pixels of 10 groups that clip 0..4 positions; in each word of pixel p byte p is large, the others are small.
    """
    rng, pixels, groups, columns = np.random.default_rng(unsigned), 16, 10, machine.array_cols
    b = Bench(machine, legal={0: (0, groups // 2, groups)})
    size = {"in_w": pixels, "row_pitch": 0, "pixel_pitch": groups}
    b.put("geom", register=0, unsigned=unsigned, tap_fastest=0, dynamic=1, **(ONE_TAP | NO_PAD | size))
    spare = (0,) * (16 - groups)
    b.put("groups", first=0, group=(*range(groups), *spare), shift=(*(g % 5 for g in range(groups)), *spare))
    weight = rng.integers(-8, 9, (groups, 1, WORD, columns))
    zero = dict.fromkeys(("act_base", "act_row0", "out_y", "out_x", "acc_half", "acc_row", "accumulate"), 0)
    tile = {"tile_h": 1, "tile_w": pixels, "group_first": 0, "group_count": groups}
    b.put("conv", **zero, **tile, weight_addr=b.weights(rng.integers(0, 2, (groups, columns)), weight))
    words = 2 * max(1, columns // WORD)
    b.vgeom(**(WIDE | {"out_pixel_pitch": words}))
    b.vec(out_base=pixels * groups, param_addr=b.params(0, 1, 1, 0), tile_w=pixels)
    p = b.program()
    values = rng.integers(0, 8, (pixels, groups, WORD))
    large = rng.choice((*MAGNITUDES, 128, 255) if unsigned else MAGNITUDES, (pixels, groups))
    large = np.where(rng.random(large.shape) < 0.5 * (1 - unsigned), rng.choice((-large, ~large)), large)
    values[np.arange(pixels), :, np.arange(pixels)] = large
    image = np.zeros((1, p.input_range[1] - p.input_range[0]), np.uint8)
    image[0, : values.size] = values.astype(np.uint8).reshape(-1)
    return p, image
