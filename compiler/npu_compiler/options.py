"""What a person may choose about quantization and selection."""

from dataclasses import dataclass
from typing import Literal, get_args

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

    method: Method = "minmax"
    percentile: float = 99.99
    aligned: bool = True
    grouping: Grouping = "magnitude"
    positions: Positions = "error"
    bias_correction: Repair = "layer"
    extract: Extraction = "static"
    rounding: Rounding = "learned"
    keep_first_8bit: bool = True
    keep_last_8bit: bool = True
    keep_small_8bit: bool = True
    max_images: int = 256
    selection: Selection = "greedy"
    seed: int = 0
    generations: int = 10
    search_images: int = 256
    seconds: float | None = None
    uniform: Uniform = "none"

    def check(self) -> "QuantizeOptions":
        """Return self.

        Raises:
            DataError: a value is out of its range.
        """
        choices = {
            "method": Method,
            "grouping": Grouping,
            "positions": Positions,
            "bias_correction": Repair,
            "extract": Extraction,
            "rounding": Rounding,
            "selection": Selection,
            "uniform": Uniform,
        }
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise DataError(f"{name} {getattr(self, name)!r}", hint=f"one of {', '.join(get_args(kind))}")
        if not 50.0 < self.percentile <= 100.0:
            raise DataError(f"percentile {self.percentile}", hint="above 50, at most 100")
        for name, least in (("max_images", 1), ("search_images", 1), ("generations", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name} {getattr(self, name)}", hint=f"at least {least}")
        if self.uniform != "none" and self.extract == "dynamic":
            raise DataError("conventional INT4 has one position, dynamic extraction many", hint="take one of the two")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise DataError(f"seconds {self.seconds}", hint="above 0")
        return self
