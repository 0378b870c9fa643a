"""Images and labels from a .npz file: headers are judged before data are read, and no more is read than is used."""

import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from npu_isa.errors import DataError
from numpy.lib import format as npy
from numpy.typing import NDArray

from npu_runtime.data.archive import LAYOUT, member, opened, read_into, reading, unpacked
from npu_runtime.data.geometry import U8, Geometry
from npu_runtime.data.limits import check_kept

HEADER_BYTES = 12_000  # more than a header that numpy reads: 10,000 characters


@dataclass(frozen=True)
class _Array:
    """What the header of an array says: `offset` is where its data begin in the member `info`."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"[:100]


def read_npz(path: Path, geometry: Geometry, limit: int | None) -> tuple[U8, NDArray[np.int64] | None]:
    """Return the first images, resized and cropped, and their labels; see `npu_runtime.data.load_dataset`."""
    with opened(path, ".npz file") as archive:
        images = _array(archive, "images", path.name)
        if images is None:
            held = ", ".join(n.removesuffix(".npy") for n in archive.namelist()[:5] if n.isprintable())
            raise DataError(f"has no array `images`; it holds {held[:200] or 'nothing'}", path.name, LAYOUT)
        if images.dtype != np.uint8 or len(images.shape) != 4 or min(images.shape) < 1:
            raise DataError(f"`images` is {images}, must be uint8 (N, H, W, C), none of them 0", path.name, LAYOUT)
        labels = _array(archive, "labels", path.name)
        if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
            raise DataError(f"`labels` is {labels}, must be whole numbers (N,)", path.name, LAYOUT)
        count = images.shape[0] if limit is None else min(limit, images.shape[0])
        pixels = _images(archive, images, geometry, count, path.name)
        return pixels, None if labels is None else _labels(archive, labels, count, path.name)


def _array(archive: zipfile.ZipFile, name: str, where: str) -> _Array | None:
    """Read the header of an array; None where there is no such array."""
    if f"{name}.npy" not in archive.namelist():
        return None
    info = member(archive, f"{name}.npy", where)
    head = bytearray(min(HEADER_BYTES, info.file_size))
    with unpacked(archive, info, where) as stream:
        read_into(stream, memoryview(head), f"`{name}`", where)
    file = io.BytesIO(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = npy.read_magic(file)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran, dtype = read(file)
    except Exception:  # numpy's header reader raises almost anything on a damaged header
        raise DataError(f"`{name}` has no readable .npy header", where, LAYOUT) from None
    return _Array(info, shape, dtype, fortran, file.tell())


def _check_size(array: _Array, name: str, where: str) -> None:
    """Raise DataError where the data are not as long as the header says."""
    holds = array.info.file_size - array.offset
    if math.prod(array.shape) * array.dtype.itemsize != holds:
        raise DataError(f"`{name}` is {array}, but {holds:,} bytes long", where, "the file is damaged; write it anew")


def _labels(archive: zipfile.ZipFile, array: _Array, count: int, where: str) -> NDArray[np.int64]:
    _check_size(array, "labels", where)
    labels = np.empty(count, array.dtype)
    with unpacked(archive, array.info, where) as stream:
        read_into(stream, memoryview(bytearray(array.offset)), "`labels`", where)
        read_into(stream, labels.data.cast("B"), "`labels`", where)
    if int(labels.max()) > np.iinfo(np.int64).max:
        raise DataError(f"`labels` go up to {labels.max()}", where, "labels are numbers of classes, from 0")
    return labels.astype(np.int64)


def _images(archive: zipfile.ZipFile, array: _Array, geometry: Geometry, count: int, where: str) -> U8:
    _check_size(array, "images", where)
    _, height, width, channels = array.shape
    shape = (*geometry.size(height, width, "an image", where), channels)
    check_kept(count, shape, where)
    check_kept(count if array.fortran else 1, array.shape[1:], where)
    with reading("`images` do not fit into memory", where):
        out = np.empty((count, *shape), np.uint8)
    with unpacked(archive, array.info, where) as stream:
        read_into(stream, memoryview(bytearray(array.offset)), "`images`", where)
        each = _by_place(stream, array, count, where) if array.fortran else _by_image(stream, array, where)
        for kept, image in zip(out, each, strict=False):
            kept[...] = geometry.apply(image)
    return out


def _by_image(stream: IO[bytes], array: _Array, where: str) -> Iterator[U8]:
    """Read one image after the other, into the same memory."""
    image = np.empty(array.shape[1:], np.uint8)
    for _ in range(array.shape[0]):
        read_into(stream, image.data.cast("B"), "`images`", where)
        yield image


def _by_place(stream: IO[bytes], array: _Array, count: int, where: str) -> U8:
    """Read the first images (count, H, W, C) of Fortran order: each place of all images in turn, rows fastest."""
    total, height, width, channels = array.shape
    check_kept(total, (height, 1, 1), where)
    images, column = np.empty((count, height, width, channels), np.uint8), np.empty((height, total), np.uint8)
    for channel, x in np.ndindex(channels, width):
        read_into(stream, column.data.cast("B"), "`images`", where)
        images[:, :, x, channel] = column[:, :count].T
    return images
