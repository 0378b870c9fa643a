"""What a data set is, and which reader takes a path."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from npu_isa.errors import DataError
from numpy.typing import NDArray

from npu_runtime.data.archive import LAYOUT, reading
from npu_runtime.data.files import read_files
from npu_runtime.data.geometry import AS_IT_IS, U8, Geometry
from npu_runtime.data.npz import read_npz


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images after resize and crop.

    Attributes:
        images: uint8 (N, height, width, channels).
        labels: int64 (N,), or None where the source has none.
    """

    images: U8
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.images)


def load_dataset(
    path: str | Path, geometry: Geometry = AS_IT_IS, limit: int | None = None, channels: int = 3
) -> Dataset:
    """Read a data set; memory follows what is used, and `npu_runtime.data.limits` says how much that may be.

    Args:
        path: .npz file, folder, or zip archive; the latter two hold image files and labels.csv (file,label).
        geometry: resize and crop.
        limit: take the first images only; no others are read.
        channels: 1 or 3: image files are converted to gray or RGB. The images of a .npz stay as they are.

    Raises:
        DataError: missing, malformed, larger than the limits, or images of different sizes.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: no image would be left", str(path), "at least 1")
    source = Path(path)
    with reading("cannot be read", source.name):
        exists, folder, file = source.exists(), source.is_dir(), source.is_file()
    if not exists:
        raise DataError("no such file or folder", str(path), LAYOUT)
    if not folder and not file:
        raise DataError("neither a file nor a folder", str(path), LAYOUT)
    if folder or source.suffix.lower() == ".zip":
        return Dataset(*read_files(source, geometry, limit, channels))
    return Dataset(*read_npz(source, geometry, limit))
