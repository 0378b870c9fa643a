"""The machine description: sizes and speeds of one design point, read from TOML and checked as a whole."""

import hashlib
import json
import math
import tomllib
from dataclasses import MISSING, asdict, dataclass, fields
from importlib import resources
from pathlib import Path

from npu_isa.errors import MachineError, did_you_mean
from npu_isa.isa.tables import RAW, TIMING

WORD_BYTES: int = RAW["group_channels"]  # of a memory word: one group of channels of one pixel
SEGMENT_ROWS: int = RAW["segment_rows"]
BLOCK_BYTES: int = TIMING["dma_block_bytes"]
FETCH_WORDS: int = BLOCK_BYTES // RAW["word_bytes"]  # instructions of a block that the front end fetches
ACT_REGIONS = 4
SHIPPED = ("npu16", "npu32", "npu128")
# sizes that no field of an instruction bounds: far above any real machine, and small enough to count with
_LIMITS = {
    "vector_taps": (1, 255),
    "dram_latency_cycles": (1, 1 << 20),
    "instruction_words": (2 * FETCH_WORDS, 1 << 24),
    "queue_depth": (2, 1 << 16),
    "token_depth": (2, 1 << 16),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """Sizes and speeds of one design point; every name ends in its unit.

    A field with a default may be missing in a file or a stored binary, and the hash leaves it out where it has that
    value: a key that comes later with a default changes nothing for what is there.

    Attributes:
        name: what reports call the machine.
        array_rows: rows of processing elements: 2, 4 or a multiple of 8.
        array_cols: columns of processing elements, and lanes of the vector engine: 2, 4, 8 or a multiple of 16.
        weight_rows_per_cycle: rows of shadow weights written per cycle.
        dynamic_extraction: positions of activations may be found from their values at run time (geom dynamic); the
            array then has a register more in front, for every conv.
        act_region_bytes: bytes of each of the four regions of the activation memory.
        act_banks: banks of 16-byte words in a region.
        weight_memory_bytes: bytes of the weight memory.
        param_memory_bytes: bytes of the parameter memory.
        acc_rows: rows of int32 accumulators in each of the two halves.
        vector_taps: window taps per lane and cycle.
        dram_bytes: bytes of DRAM.
        dram_bytes_per_cycle: bytes that the bus moves per cycle.
        dram_latency_cycles: cycles from the last byte on the bus to the end of a transfer.
        dram_burst_bytes: bytes of a burst, the least that is moved.
        instruction_words: instructions that the front end's fetch buffer holds, 32 bytes each; whole blocks.
        queue_depth: instructions waiting per engine.
        token_depth: tokens per ordered pair of engines.
        clock_hz: clock; turns cycles into time, changes neither values nor cycles.
    """

    name: str
    array_rows: int
    array_cols: int
    weight_rows_per_cycle: int
    dynamic_extraction: bool = False
    act_region_bytes: int
    act_banks: int
    weight_memory_bytes: int
    param_memory_bytes: int
    acc_rows: int
    vector_taps: int
    dram_bytes: int
    dram_bytes_per_cycle: int
    dram_latency_cycles: int
    dram_burst_bytes: int
    instruction_words: int
    queue_depth: int
    token_depth: int
    clock_hz: float

    def problems(self) -> list[str]:
        """Return every rule that this design point breaks, each with the value found; empty if it is consistent."""
        found: list[str] = []

        def need(ok: bool, text: str) -> None:
            if not ok:
                found.append(text)

        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "name":
                need(bool(value) and value.isprintable(), "name is empty or not printable")
            elif f.name == "clock_hz":
                need(value > 0 and value < 1e15, f"clock_hz = {value}: must be above 0 and below 1e15")
            elif f.name != "dynamic_extraction":
                need(value > 0, f"{f.name} = {value}: must be positive")
        if found:
            return found
        rows, cols = self.array_rows, self.array_cols
        need(rows in (2, 4) or rows % SEGMENT_ROWS == 0, f"array_rows = {rows}: must be 2, 4 or a multiple of 8")
        need(rows <= 1024, f"array_rows = {rows}: at most 1024")
        need(cols in (2, 4, 8) or cols % 16 == 0, f"array_cols = {cols}: must be 2, 4, 8 or a multiple of 16")
        need(cols <= 512, f"array_cols = {cols}: at most 512 (field lanes of vec)")
        need(
            rows % self.weight_rows_per_cycle == 0,
            f"weight_rows_per_cycle = {self.weight_rows_per_cycle}: must divide array_rows = {rows}",
        )
        words = max(1, rows // SEGMENT_ROWS)
        need(
            self.act_banks >= words,
            f"act_banks = {self.act_banks}: a pass reads {words} words per cycle (array_rows / 8)",
        )
        need(
            self.act_banks >= -(-cols // WORD_BYTES),
            f"act_banks = {self.act_banks}: the vector engine writes {-(-cols // WORD_BYTES)} words per cycle",
        )
        need(
            self.act_banks * WORD_BYTES >= self.dram_bytes_per_cycle,
            f"act_banks = {self.act_banks}: {self.act_banks * WORD_BYTES} bytes per cycle cannot take "
            f"dram_bytes_per_cycle = {self.dram_bytes_per_cycle}",
        )
        need(
            self.act_region_bytes % (self.act_banks * WORD_BYTES) == 0,
            f"act_region_bytes = {self.act_region_bytes}: must be a multiple of act_banks x {WORD_BYTES} = "
            f"{self.act_banks * WORD_BYTES}",
        )
        need(self.act_words <= 1 << 24, f"act_region_bytes = {self.act_region_bytes}: four regions exceed 2^24 words")
        need(
            self.weight_memory_bytes % WORD_BYTES == 0 and self.weight_memory_bytes <= 1 << 28,
            f"weight_memory_bytes = {self.weight_memory_bytes}: must be a multiple of {WORD_BYTES}, at most 2^28",
        )
        need(
            self.param_memory_bytes % (4 * cols) == 0 and self.param_rows <= 1 << 16,
            f"param_memory_bytes = {self.param_memory_bytes}: must be a multiple of 4 x array_cols = {4 * cols}, "
            "at most 65536 rows",
        )
        need(self.acc_rows <= 1 << 16, f"acc_rows = {self.acc_rows}: at most 65536 (field acc_row of conv)")
        need(
            self.dram_burst_bytes % self.dram_bytes_per_cycle == 0,
            f"dram_burst_bytes = {self.dram_burst_bytes}: must be a multiple of dram_bytes_per_cycle = "
            f"{self.dram_bytes_per_cycle}",
        )
        need(
            BLOCK_BYTES % self.dram_burst_bytes == 0,
            f"dram_burst_bytes = {self.dram_burst_bytes}: must divide the arbitration block of {BLOCK_BYTES} bytes",
        )
        need(self.dram_bytes <= 1 << 32, f"dram_bytes = {self.dram_bytes}: at most 2^32 (field dram_addr)")
        need(
            self.instruction_words % FETCH_WORDS == 0,
            f"instruction_words = {self.instruction_words}: the fetch buffer holds whole blocks of {FETCH_WORDS} "
            "instructions",
        )
        for key, (least, most) in _LIMITS.items():
            value = getattr(self, key)
            need(least <= value <= most, f"{key} = {value}: must be in {least}..{most}")
        return found

    def check(self, where: str = "") -> "MachineConfig":
        """Return self, or raise MachineError with every broken rule."""
        found = self.problems()
        if found:
            text = f"{len(found)} rule(s) of the machine broken:\n" + "\n".join(f"  - {p}" for p in found)
            raise MachineError(text, where or self.name, "see `npu hardware show npu32` for a consistent description")
        return self

    @property
    def act_words(self) -> int:
        """Words of 16 bytes in the four regions of the activation memory."""
        return ACT_REGIONS * self.act_region_bytes // WORD_BYTES

    @property
    def region_words(self) -> int:
        """Words of 16 bytes in one region."""
        return self.act_region_bytes // WORD_BYTES

    @property
    def weight_words(self) -> int:
        """Units of 16 bytes in the weight memory."""
        return self.weight_memory_bytes // WORD_BYTES

    @property
    def param_rows(self) -> int:
        """Rows of 4 bytes per lane in the parameter memory."""
        return self.param_memory_bytes // (4 * self.array_cols)

    @property
    def tile_groups(self) -> int:
        """Words (groups of 16 channels) that one column tile of outputs touches per pixel."""
        return max(1, self.array_cols // WORD_BYTES)

    def to_dict(self) -> dict[str, int | float | str | bool]:
        """Return the fields as plain values, in declaration order."""
        return asdict(self)

    def hash(self) -> str:
        """Return the SHA-256 of everything that can change values or cycles (not the name, not the clock).

        Fields that have their default are left out.
        """
        defaults = {f.name: f.default for f in fields(self)}
        body = {k: v for k, v in self.to_dict().items() if k not in ("name", "clock_hz") and v != defaults[k]}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def machine_from_dict(data: dict[str, object], where: str) -> MachineConfig:
    """Build and check a machine from plain values; unknown, missing and ill-typed keys are reported together.

    Raises:
        MachineError: naming every problem found in `data`.
    """
    known = {f.name: f for f in fields(MachineConfig)}
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    found = []
    for key in data:
        if key not in known:
            near = did_you_mean(key, known)
            found.append(f"unknown key {key!r}" + (f", {near}" if near else ""))
    values: dict[str, object] = {}
    for key in known:
        want = {"name": str, "clock_hz": float, "dynamic_extraction": bool}.get(key, int)
        if key not in data:
            if known[key].default is MISSING:
                found.append(f"missing key {key!r}")
            continue
        value = data[key]
        if want is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 1 << 62 else math.inf
        if not isinstance(value, want) or (isinstance(value, bool) and want is not bool):
            found.append(f"{key} = {value!r}: must be {kinds[want]}")
        values[key] = value
    if found:
        text = f"{len(found)} problem(s):\n" + "\n".join(f"  - {p}" for p in found)
        raise MachineError(text, where, "see `npu hardware show npu32` for every key")
    return MachineConfig(**values).check(where)  # type: ignore[arg-type]


def load_machine(name_or_path: str | Path) -> MachineConfig:
    """Read a shipped machine by name (npu16, npu32, npu128) or a TOML file by path.

    A file may name a shipped machine as `base`; it then needs a `name` and the keys that differ.

    Raises:
        MachineError: the file is missing, not TOML, or breaks rules.
    """
    where = str(name_or_path)
    data = _parsed(machine_text(name_or_path), where)
    base = data.pop("base", None)
    if base is not None:
        if base not in SHIPPED:
            near = did_you_mean(str(base), SHIPPED)
            raise MachineError(f"base = {base!r}: no shipped machine", where, near or f"there are {', '.join(SHIPPED)}")
        shipped = _parsed(machine_text(str(base)), str(base))
        del shipped["name"]  # another machine, another name
        data = shipped | data
    return machine_from_dict(data, where)


def _parsed(text: str, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # syntax, digits, depth
        raise MachineError(f"not valid TOML: {error}", where, "see `npu hardware show npu32`") from None


def machine_text(name_or_path: str | Path) -> str:
    """Return the TOML text of a shipped machine or of a file; it is not checked.

    Raises:
        MachineError: the file is missing or not text.
    """
    name = str(name_or_path)
    if name in SHIPPED:
        return resources.files("npu_isa.machine").joinpath(f"machines/{name}.toml").read_text(encoding="utf-8")
    try:
        return Path(name_or_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = did_you_mean(name, SHIPPED)
        hint = f"{near} " if near else ""
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise MachineError(
            f"cannot read the machine description: {reason}",
            name,
            f"{hint}shipped machines: {', '.join(SHIPPED)}; or give the path of a TOML file",
        ) from None
