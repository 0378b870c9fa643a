"""Image files and labels.csv from a folder or a zip archive."""

import csv
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from npu_isa.errors import DataError
from numpy.typing import NDArray

from npu_runtime.data.archive import LAYOUT, member, opened, read_into, reading, unpacked
from npu_runtime.data.geometry import U8, Geometry
from npu_runtime.data.limits import FILE_BYTES, IMAGE_PIXELS, LABELS_BYTES, check_kept, check_pixels

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow knows more, some of which run programs
NAME_LENGTH = 1000
Read = Callable[[str, int], bytes]  # a file's name and the bytes that it may have -> its bytes


def read_files(path: Path, geometry: Geometry, limit: int | None, channels: int) -> tuple[U8, NDArray[np.int64]]:
    """Return the first images, resized and cropped, and their labels; see `npu_runtime.data.load_dataset`."""
    with _reader(path) as read:
        names, labels = _label_rows(read, limit, path.name)
        first = _image(read, names[0], geometry, channels, path.name)
        check_kept(len(names), first.shape, path.name)
        with reading("the images do not fit into memory", path.name):
            images = np.empty((len(names), *first.shape), np.uint8)
        for place, name in enumerate(names):
            image = first if place == 0 else _image(read, name, geometry, channels, path.name)
            if image.shape != first.shape:
                raise DataError(
                    f"{name} is {image.shape[1]}x{image.shape[0]} pixels, {names[0]} is "
                    f"{first.shape[1]}x{first.shape[0]}",
                    path.name,
                    "compile with --resize and --crop, so that all images get one size",
                )
            images[place] = image
    return images, np.array(labels, np.int64)


@contextmanager
def _reader(path: Path) -> Iterator[Read]:
    """Yield a function that reads a file of the data set."""
    if path.is_dir():

        def from_folder(name: str, most: int) -> bytes:
            with reading(f"{name} cannot be read", path.name):
                if not (path / name).is_file():
                    raise FileNotFoundError("there is no such file in the folder")
                size = (path / name).stat().st_size
                _check_bytes(name, size, most, path.name)
                with (path / name).open("rb") as file:
                    return file.read(size)

        yield from_folder
        return
    with opened(path, "zip archive") as archive:

        def from_zip(name: str, most: int) -> bytes:
            info = member(archive, name, path.name)
            _check_bytes(name, info.file_size, most, path.name)
            data = bytearray(info.file_size)
            with unpacked(archive, info, path.name) as stream:
                read_into(stream, memoryview(data), name, path.name)
            return bytes(data)

        yield from_zip


def _check_bytes(name: str, size: int, most: int, where: str) -> None:
    if size > most:
        raise DataError(f"{name} has {size:,} bytes, the limit is {most:,}", where, "give smaller files")


def _label_rows(read: Read, limit: int | None, where: str) -> tuple[list[str], list[int]]:
    """Return the first names and labels of labels.csv; no name leads out of the data set."""
    names, labels = [], []
    try:
        text = io.StringIO(read("labels.csv", LABELS_BYTES).decode("utf-8-sig"), newline="")
        rows = islice(csv.DictReader(text), None if limit is None else min(limit, sys.maxsize))
        for line, row in enumerate(rows, start=2):
            name, label = row.get("file"), (row.get("label") or "").strip()
            place = f"labels.csv line {line}"
            if not name or not re.fullmatch("-?[0-9]{1,18}", label):
                raise DataError(f"{place}: needs `file` and a whole number `label`", where, LAYOUT)
            if not name.isprintable() or len(name) > NAME_LENGTH:
                raise DataError(f"{place}: a name of {len(name)} characters, or not printable", where, LAYOUT)
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(f"{place}: {name} leads out of the data set", where, LAYOUT)
            names.append(name)
            labels.append(int(label))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"labels.csv cannot be read: {error}", where, LAYOUT) from None
    if not names:
        raise DataError("labels.csv names no image", where, LAYOUT)
    return names, labels


def _image(read: Read, name: str, geometry: Geometry, channels: int, where: str) -> U8:
    """Return one image file as uint8 (height, width, channels): gray where `channels` is 1, else RGB."""
    from PIL import Image

    data = io.BytesIO(read(name, FILE_BYTES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of sizes that are judged here, and of metadata
        with _decoding(name, where):
            image = Image.open(data, formats=FORMATS)
        with image:
            # 16-bit gray and float pixels: Pillow would cut all above 255
            if image.mode[0] in "IF":
                raise DataError(f"{name} has pixels of mode {image.mode}", where, "save it with 8 bits a pixel")
            width, height = image.size
            check_pixels(height, width, name, where, "give smaller images")
            geometry.size(height, width, name, where)
            with _decoding(name, where):
                pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.uint8)
    return geometry.apply(pixels.reshape(height, width, -1))


@contextmanager
def _decoding(name: str, where: str) -> Iterator[None]:
    """Turn what Pillow raises on damaged files, which may be anything, into a DataError."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except Image.DecompressionBombError:
        raise DataError(
            f"{name} declares more pixels than the limit of {IMAGE_PIXELS:,}", where, "give smaller images"
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is not a readable image", where, f"labels.csv names files of {', '.join(FORMATS)}"
        ) from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{name} is not a readable image: {reason}", where, "write the file anew") from None
