"""What a person may choose about quantization."""

from dataclasses import dataclass
from typing import Literal

from npu_isa.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeOptions:
    """Choices of the quantizer; the defaults are those measured best on the networks of the test data.

    Attributes:
        method: range of a tensor: all values, a percentile of their magnitudes, or least squared 8-bit error.
        percentile: per cent, for method "percentile".
        aligned: move the 8-bit scales to where the 4-bit values err least.
        bias_correction: repair the mean error of lowering in the bias rows.
        keep_first_8bit: the convolutions that read the image never run in 4 bits.
        keep_last_8bit: the last convolution never runs in 4 bits.
        max_images: calibration images used, the first ones.
        selection: name of the rule that orders the groups of a layer (npu_compiler.select.SELECTORS).
    """

    method: Literal["minmax", "percentile", "mse"] = "minmax"
    percentile: float = 99.99
    aligned: bool = True
    bias_correction: bool = True
    keep_first_8bit: bool = True
    keep_last_8bit: bool = True
    max_images: int = 512
    selection: str = "error"

    def check(self) -> "QuantizeOptions":
        """Return self.

        Raises:
            DataError: a value is out of its range.
        """
        if self.method not in ("minmax", "percentile", "mse"):
            raise DataError(f"calibration method {self.method!r}", hint="one of minmax, percentile, mse")
        if not 50.0 < self.percentile <= 100.0:
            raise DataError(f"percentile {self.percentile}", hint="above 50, at most 100")
        if self.max_images < 1:
            raise DataError(f"max_images {self.max_images}", hint="at least 1")
        return self
