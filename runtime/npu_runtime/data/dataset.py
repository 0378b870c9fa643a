"""Images and labels from a .npz file, a folder or a zip archive."""

import csv
import io
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from npu_isa.errors import DataError
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
LAYOUT = "a data set is a .npz with `images` (N, H, W, C uint8) and `labels` (N), or a folder or zip with labels.csv"


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


@dataclass(frozen=True)
class Geometry:
    """What is done to an image before its pixels are used.

    Attributes:
        resize: () for nothing, (side,) for the shorter side, (height, width); Pillow, bilinear.
        crop: () for nothing, or (height, width) from the centre, the odd pixel dropped at the end.
    """

    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()


def load_dataset(
    path: str | Path, geometry: Geometry = Geometry(), limit: int | None = None, channels: int = 3
) -> Dataset:
    """Read a data set.

    Args:
        path: .npz file, folder, or zip archive; the latter two hold image files and labels.csv (file,label).
        geometry: resize and crop.
        limit: take the first images only.
        channels: 1 or 3: image files are converted to gray or RGB.

    Raises:
        DataError: missing, malformed, or images of different sizes.
    """
    source = Path(path)
    if not source.exists():
        raise DataError("no such file or folder", str(path), LAYOUT)
    if source.is_dir() or source.suffix.lower() == ".zip":
        return _read_files(source, geometry, limit, channels)
    return _read_npz(source, geometry, limit)


def _read_npz(path: Path, geometry: Geometry, limit: int | None) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as archive:
            images = archive.get("images")
            labels = archive.get("labels")
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DataError(f"not a readable .npz file: {error}", path.name, LAYOUT) from None
    if images is None:
        raise DataError("has no array `images`", path.name, LAYOUT)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise DataError(
            f"`images` is {images.dtype} of shape {images.shape}, must be uint8 (N, H, W, C)", path.name, LAYOUT
        )
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise DataError(
            f"`labels` is {labels.dtype} of shape {labels.shape}, must be whole numbers (N,)", path.name, LAYOUT
        )
    images = images[:limit]
    if geometry != Geometry():
        images = np.stack([_apply_geometry(_to_pillow(i), geometry, path.name) for i in images])
    return Dataset(images, None if labels is None else labels[:limit].astype(np.int64))


def _to_pillow(image: U8) -> Any:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _read_files(path: Path, geometry: Geometry, limit: int | None, channels: int) -> Dataset:
    from PIL import Image, UnidentifiedImageError

    read = _reader(path)
    names, labels = _label_rows(path, read, limit)
    images: list[U8] = []
    for name in names:
        try:
            with Image.open(io.BytesIO(read(name))) as image:
                images.append(_apply_geometry(image.convert("L" if channels == 1 else "RGB"), geometry, name))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DataError(f"{name} is not a readable image: {error}", path.name, "see labels.csv") from None
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"{name} is {images[-1].shape[1]}x{images[-1].shape[0]} pixels, {names[0]} is "
                f"{images[0].shape[1]}x{images[0].shape[0]}",
                path.name,
                "compile with --resize and --crop, so that all images get one size",
            )
    return Dataset(np.stack(images), np.array(labels, np.int64))


def _reader(path: Path) -> Callable[[str], bytes]:
    """Return a function from a file's name to its bytes."""
    if path.is_dir():

        def from_folder(name: str) -> bytes:
            try:
                return (path / name).read_bytes()
            except OSError as error:
                raise DataError(f"{name}: {error.strerror}", path.name, LAYOUT) from None

        return from_folder
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"not a readable zip archive: {error}", path.name, LAYOUT) from None

    def from_zip(name: str) -> bytes:
        try:
            return archive.read(name)
        except (KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise DataError(f"{name} cannot be read: {error}", path.name, LAYOUT) from None

    return from_zip


def _label_rows(path: Path, read: Callable[[str], bytes], limit: int | None) -> tuple[list[str], list[int]]:
    try:
        rows = list(csv.DictReader(io.StringIO(read("labels.csv").decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"labels.csv cannot be read: {error}", path.name, LAYOUT) from None
    names, labels = [], []
    for line, row in enumerate(rows[:limit], start=2):
        name, label = row.get("file"), (row.get("label") or "").strip()
        if not name or not label.lstrip("-").isdigit():
            raise DataError(f"labels.csv line {line}: needs `file` and a whole number `label`", path.name, LAYOUT)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"labels.csv line {line}: {name} leads out of the data set", path.name, LAYOUT)
        names.append(name)
        labels.append(int(label))
    if not names:
        raise DataError("labels.csv names no image", path.name, LAYOUT)
    return names, labels


def _apply_geometry(image: Any, geometry: Geometry, name: str) -> U8:
    """Resize and crop one Pillow image; returns uint8 (height, width, channels)."""
    from PIL import Image

    width, height = image.size
    if geometry.resize:
        if len(geometry.resize) == 2:
            height, width = geometry.resize
        else:
            side = geometry.resize[0]
            short = min(width, height)
            width, height = round(width * side / short), round(height * side / short)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels: U8 = np.asarray(image, np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if geometry.crop:
        rows, cols = geometry.crop
        if rows > height or cols > width:
            raise DataError(
                f"{name} has {width}x{height} pixels, the crop wants {cols}x{rows}",
                hint="give --resize, or a smaller --crop",
            )
        y, x = (height - rows) // 2, (width - cols) // 2
        pixels = pixels[y : y + rows, x : x + cols]
    return pixels


@dataclass(frozen=True)
class PreprocessOptions:
    """Preprocessing as given by a user: ((pixel * pixel_scale) - mean) / std, after resize and crop."""

    pixel_scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.pixel_scale, *self.mean, *self.std)
        if not all(np.isfinite(v) for v in numbers) or 0.0 in self.std or self.pixel_scale == 0:
            raise DataError(
                "mean, std and pixel scale must be finite numbers, std and pixel scale not 0",
                hint="a pixel p becomes (p * pixel_scale - mean) / std; leave std out for 1",
            )
        for name, value in (("resize", self.resize), ("crop", self.crop)):
            if len(value) > 2 or any(v < 1 for v in value):
                raise DataError(
                    f"{name} = {list(value)}: must be one or two positive numbers of pixels",
                    hint=f"--{name} HEIGHT,WIDTH, or one number: the shorter side of a resize, both sides of a crop",
                )

    @property
    def geometry(self) -> Geometry:
        """What concerns the image and not its pixels."""
        crop = self.crop * 2 if len(self.crop) == 1 else self.crop
        return Geometry(self.resize, crop)

    def per_channel(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std with one value per channel.

        Raises:
            DataError: neither one value nor one per channel was given.
        """
        found = []
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(
                    f"{name} has {len(values)} values, the model has {channels} channels",
                    hint="give one, or one per channel",
                )
            found.append(values * (channels // len(values)))
        return found[0], found[1]


def numbers(text: str) -> tuple[float, ...]:
    """Return comma-separated numbers.

    Raises:
        ValueError: something else stands there.
    """
    return tuple(float(part) for part in text.split(","))


def preprocess_options(path: str | None, given: dict[str, Any]) -> PreprocessOptions:
    """Combine a TOML file with what the command line gives; the command line wins.

    Raises:
        DataError: the file cannot be read, has unknown keys or values of a wrong kind.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read: {error.strerror}", path, "check the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"not valid TOML: {error}", path) from None
        known = tuple(PreprocessOptions.__dataclass_fields__)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise DataError(f"unknown key(s) {', '.join(unknown)}", path, f"known keys: {', '.join(known)}")
    values |= {k: v for k, v in given.items() if v is not None}
    try:
        return PreprocessOptions(**{k: _typed(k, v) for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise DataError(f"preprocessing: {error}", path or "", "numbers, or lists of numbers") from None


def _typed(key: str, value: Any) -> Any:
    if key == "pixel_scale":
        return float(value)
    many: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if key in ("resize", "crop"):
        if any(float(v) != int(v) for v in many):
            raise ValueError(f"{key} takes whole pixels")
        return tuple(int(v) for v in many)
    return tuple(float(v) for v in many)
