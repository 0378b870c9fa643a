"""What a person may choose about quantization and selection, in Python and on the command line.

An option is one field of `QuantizeOptions`; the `Flag` beside its type says how the command line offers it.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from npu_isa.errors import DataError

from npu_compiler.qgraph.ir import Extraction

Grouping = Literal["magnitude", "none"]
Method = Literal["minmax", "percentile", "mse"]
Positions = Literal["error", "range"]
Repair = Literal["none", "layer", "network"]
Rounding = Literal["nearest", "learned"]
Selection = Literal["random", "range", "greedy", "evolutionary"]
Uniform = Literal["none", "minmax", "mse"]

SMALL = 32  # products of a sum


Beside = tuple[str, tuple[str, ...]]  # a field, and the values of it beside which an option does something
SEARCH: Beside = ("selection", ("evolutionary",))
CHANCE: Beside = ("selection", ("random", "evolutionary"))
EXTRACTION: Beside = ("uniform", ("none",))


@dataclass(frozen=True, slots=True)
class Flag:
    """How the command line offers an option; its choices are those of the field's type.

    Attributes:
        name: of the flag, without dashes.
        help: what it chooses; the default is added, unless the text ends in it.
        value: stands for the value in the help. The flag of a field that is true by default has none: it turns it off.
        beside: where the option does nothing by itself.
        part: of the method whose parts `npu ablate` adds one by one.
    """

    name: str
    help: str
    value: str = ""
    beside: Beside | None = None
    part: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeOptions:
    """Choices of the quantizer.

    Attributes:
        method: range of a tensor: all values, a percentile of their magnitudes, or least squared 8-bit error.
        percentile: per cent, for method "percentile".
        aligned: move the 8-bit scales to where the 4-bit values err least.
        grouping: channels share a group of 16 in the model's own order; or with those of like magnitude.
        positions: extraction positions of least squared error (they may clip), or by the largest value's bit length.
        bias_correction: what the bias row of a boundary repairs: nothing; the mean error of lowering the layer's own
            groups; or that of the network as it runs, the layers before in 4 bits too (npu_compiler.lowering.fit).
        extract: positions of activations: static; or dynamic, from the 16 values of the group at each pixel.
        rounding: of the weights of layers with a dial: to the nearest 8-bit value; or learned, so that the errors of
            their lowered forms cancel (npu_compiler.lowering.rounding).
        keep_first_8bit: the first convolutions after the image never run in 4 bits.
        keep_last_8bit: the last convolution never runs in 4 bits.
        keep_small_8bit: convolutions whose sums have at most SMALL products never run in 4 bits: one pass of an array
            of 32 rows holds them in either form, and their error is the largest.
        max_images: calibration images used, the first ones.
        selection: in which order the groups turn 4-bit (npu_compiler.lowering.select).
        seed: of random selection and of the search.
        generations: of the search, at each of its three ratios.
        search_images: calibration images that the search measures a choice on, the first ones.
        seconds: of the search in all, in place of generations; the result then depends on the computer.
        uniform: the baseline: conventional INT4 with one 4-bit grid per tensor and output channel, whose ranges are
            those of all values or of least squared error. Replaces aligned, positions and grouping; not with dynamic
            extraction.
    """

    method: Annotated[Method, Flag("method", "range of a tensor")] = "minmax"
    percentile: Annotated[
        float, Flag("percentile", "for --method percentile", "P", beside=("method", ("percentile",)))
    ] = 99.99
    max_images: Annotated[int, Flag("max-images", "calibration images used", "N")] = 256
    selection: Annotated[Selection, Flag("select", "which groups turn 4-bit first", part=True)] = "greedy"
    extract: Annotated[Extraction, Flag("extract", "positions of activations", beside=EXTRACTION, part=True)] = "static"
    positions: Annotated[
        Positions, Flag("positions", "least squared error, or by range", beside=EXTRACTION, part=True)
    ] = "error"
    grouping: Annotated[Grouping, Flag("grouping", "channels of a group", beside=EXTRACTION, part=True)] = "magnitude"
    rounding: Annotated[Rounding, Flag("rounding", "of weights (learned; nearest with --uniform)", part=True)] = (
        "learned"
    )
    bias_correction: Annotated[Repair, Flag("bias-correction", "what bias rows repair", part=True)] = "layer"
    uniform: Annotated[Uniform, Flag("uniform", "conventional INT4 in place of extraction", part=True)] = "none"
    seed: Annotated[int, Flag("seed", "of random and evolutionary selection", "S", beside=CHANCE)] = 0
    generations: Annotated[
        int, Flag("budget", "search: generations, or seconds as 60s (10)", "N|Ss", beside=SEARCH)
    ] = 10
    seconds: float | None = None  # --budget gives either of the two
    search_images: Annotated[int, Flag("search-images", "search: images to measure on", "N", beside=SEARCH)] = 256
    aligned: Annotated[
        bool, Flag("plain-scales", "do not align 8-bit scales to the 4-bit grid", beside=EXTRACTION, part=True)
    ] = True
    keep_first_8bit: Annotated[bool, Flag("lower-first", "let the first convolution run in 4 bits too")] = True
    keep_last_8bit: Annotated[bool, Flag("lower-last", "let the last layer run in 4 bits too")] = True
    keep_small_8bit: Annotated[bool, Flag("lower-small", f"let layers of at most {SMALL} products a sum do so too")] = (
        True
    )

    def check(self) -> "QuantizeOptions":
        """Return self.

        Raises:
            DataError: a value is out of its range.
        """
        for name, kind in get_type_hints(QuantizeOptions).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise DataError(
                    f"{name} {getattr(self, name)!r} is not known", hint=f"one of {', '.join(get_args(kind))}"
                )
        if not 50.0 < self.percentile <= 100.0:
            raise DataError(f"percentile {self.percentile} is out of range", hint="above 50, at most 100")
        for name, least in (("max_images", 1), ("search_images", 1), ("generations", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name} {getattr(self, name)} is out of range", hint=f"at least {least}")
        if self.uniform != "none" and self.extract == "dynamic":
            raise DataError("conventional INT4 has one position, dynamic extraction many", hint="take one of the two")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise DataError(f"seconds {self.seconds} is out of range", hint="above 0")
        return self


@dataclass(frozen=True, slots=True)
class Offered:
    """An option that the command line offers: its field, the field's type and default, and the flag."""

    field: str
    kind: Any
    default: Any
    flag: Flag


def offered() -> tuple[Offered, ...]:
    """Return the options that have a flag, in the order of the help."""
    hints = get_type_hints(QuantizeOptions, include_extras=True)
    defaults = QuantizeOptions()
    return tuple(
        Offered(name, get_args(hint)[0], getattr(defaults, name), get_args(hint)[1])
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    )
