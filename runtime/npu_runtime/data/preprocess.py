"""What is done to pixels before the network sees them, as a person gives it: options, or a TOML file."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from npu_isa.errors import DataError

from npu_runtime.data.geometry import Geometry
from npu_runtime.data.limits import IMAGE_PIXELS


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
            if len(value) > 2 or any(not 1 <= v <= IMAGE_PIXELS for v in value):
                raise DataError(
                    f"{name} = {list(value)}: must be one or two numbers of pixels, 1 to {IMAGE_PIXELS}",
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


def as_bytes(given: PreprocessOptions) -> PreprocessOptions:
    """Return preprocessing for a model that takes pixels as they are: nothing but resize and crop.

    Raises:
        DataError: something else was asked for.
    """
    plain = PreprocessOptions(resize=given.resize, crop=given.crop)
    wanted = replace(plain, pixel_scale=1.0)
    if given not in (plain, wanted):
        raise DataError(
            "the model takes bytes, pixels as they are: pixel scale, mean and std have nothing to do",
            hint="leave them out, or export the model with float inputs",
        )
    return wanted


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
        except (ValueError, RecursionError) as error:  # bytes, syntax, digits, depth
            raise DataError(f"not valid TOML: {error}", path) from None
        known = tuple(PreprocessOptions.__dataclass_fields__)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise DataError(f"unknown key(s) {', '.join(unknown)}", path, f"known keys: {', '.join(known)}")
    values |= {k: v for k, v in given.items() if v is not None}
    try:
        return PreprocessOptions(**{k: _typed(k, v) for k, v in values.items()})
    except (TypeError, ValueError, OverflowError) as error:
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
