"""Resize and crop."""

from dataclasses import dataclass

import numpy as np
from npu_isa.errors import DataError
from numpy.typing import NDArray

from npu_runtime.data.limits import check_pixels

U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Geometry:
    """What is done to an image before its pixels are used.

    Attributes:
        resize: () for nothing, (side,) for the shorter side, (height, width); Pillow, bilinear.
        crop: () for nothing, or (height, width) from the centre, the odd pixel dropped at the end.
    """

    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()

    def size(self, height: int, width: int, name: str, where: str = "") -> tuple[int, int]:
        """Return (height, width) of an image after resize and crop.

        Args:
            height, width: of the image before.
            name, where: the image and its data set, for errors.

        Raises:
            DataError: the image is too large, before or after the resize, or smaller than the crop.
        """
        check_pixels(height, width, name, where, "give smaller images")
        if self.resize:
            height, width = self._resized(height, width)
            check_pixels(height, width, f"{name}, resized,", where, "give a smaller --resize")
        if not self.crop:
            return height, width
        rows, cols = self.crop
        if rows > height or cols > width:
            raise DataError(
                f"{name} has {width}x{height} pixels, the crop wants {cols}x{rows}",
                where,
                "give --resize, or a smaller --crop",
            )
        return rows, cols

    def apply(self, pixels: U8) -> U8:
        """Return an image after resize and crop, both (height, width, channels); `size` has been asked before."""
        if self.resize:
            pixels = _resize(pixels, *self._resized(*pixels.shape[:2]))
        if self.crop:
            rows, cols = self.crop
            y, x = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - cols) // 2
            pixels = pixels[y : y + rows, x : x + cols]
        return pixels

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if len(self.resize) == 2:
            return self.resize[0], self.resize[1]
        side, short = self.resize[0], min(width, height)
        return round(height * side / short), round(width * side / short)


AS_IT_IS = Geometry()


def _resize(pixels: U8, height: int, width: int) -> U8:
    """Resize as Pillow does it, bilinear; channels are colours or not, none is taken for transparency."""
    from PIL import Image

    def plane(values: U8) -> U8:
        image = Image.fromarray(np.ascontiguousarray(values))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.uint8)

    channels = pixels.shape[2]
    return plane(pixels) if channels == 3 else np.stack([plane(pixels[..., c]) for c in range(channels)], axis=-1)
