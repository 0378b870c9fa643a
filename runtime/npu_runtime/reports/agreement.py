"""How near the outputs of a binary are to those of the float model that it was compiled from, image by image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from npu_compiler.frontend.image import Image, find_image
from npu_compiler.frontend.importer import HWC
from npu_compiler.frontend.model import load_model
from npu_compiler.qgraph.ir import Preprocess
from npu_compiler.quantize.calibrate import pixel_values
from npu_isa.errors import DataError
from npu_isa.file.binary import Binary, HostOutput, InputInfo, OutputInfo
from numpy.typing import NDArray

from npu_runtime.reports.tables import Table
from npu_runtime.session.onnx_run import OnnxModel, Result

SCHEMA = "npu.agreement/1"
KEPT_BYTES = 1 << 28  # of float outputs, so that several ratios compute them once

Array = NDArray[Any]


@dataclass(frozen=True)
class AgreementRow:
    """One output at one ratio, over all images.

    Attributes:
        output: its ONNX name.
        sqnr_db: 10 log10 of the sum of the float model's squares over that of the differences' squares; None where
            either is 0, and everything None where the output is a list: no two images need agree in its length.
        cosine: of the angle between all values of the two; None where one of them is 0 everywhere.
        largest_error: largest difference of a value; largest_value: largest magnitude in the float model.
    """

    ratio_percent: float
    output: str
    sqnr_db: float | None
    cosine: float | None
    largest_error: float | None
    largest_value: float | None


class FloatModel:
    """The float model that a binary was compiled from, on images: its preprocessing is the binary's own.

    Raises:
        ModelError: the file is not a model that can be run.
        DataError: its outputs are not those of the binary.
    """

    def __init__(self, path: str | Path, binary: Binary) -> None:
        self._where = Path(path).name
        model, _ = load_model(Path(path), self._where)
        self._image = _image(model, binary.input, self._where)
        self._kind = _dtype(model, self._image.name)
        self._model = OnnxModel(Path(path), self._where)
        info = binary.input
        pre = Preprocess(info.pixel_scale, info.mean, info.std, info.resize, info.crop)
        self._values = pixel_values(pre)
        self._held: dict[int, dict[str, Result]] = {}
        self._held_bytes = 0
        self._shapes = {output.name: output.shape for output in binary.results}
        names = list(self._shapes)
        if self._model.outputs != names:
            raise DataError(
                f"the model gives {', '.join(self._model.outputs)}, the binary {', '.join(names)}",
                self._where,
                "give the model that the binary was compiled from",
            )

    @property
    def provenance(self) -> dict[str, str]:
        """What identifies the float values."""
        return {"float_model": self._where, "float_engine": self._model.engine}

    def outputs(self, images: NDArray[np.uint8], first: int) -> dict[str, Result]:
        """Return the outputs by name, as `npu_runtime.session.session.Session.run_all` does.

        Args:
            images: pixels, uint8 (N, height, width, channels).
            first: number of the first one in the data set; it names a block that is asked for again.
        """
        if first in self._held:
            return self._held[first]
        x = self._values[np.arange(images.shape[3]), images]
        if self._image.order != HWC:
            x = x.transpose(0, 3, 1, 2)
        x = np.ascontiguousarray(x.astype(np.float32).astype(self._kind))
        found = self._model.run_each({self._image.name: x}, self._image.batch, self._shapes)
        parts = [part for made in found.values() for part in (made if isinstance(made, list) else [made])]
        size = sum(part.nbytes for part in parts)
        if self._held_bytes + size <= KEPT_BYTES:
            self._held[first] = found
            self._held_bytes += size
        return found


def _image(model: Any, info: InputInfo, where: str) -> Image:
    """Return the image input of a model; it must have the sizes of the binary's."""
    image = find_image(model.graph, where, None, (info.channels, info.height, info.width))
    if image.shape != (info.channels, info.height, info.width):
        raise DataError(
            f"the model takes images of {'x'.join(map(str, image.shape))} (channels, height, width), the binary of "
            f"{info.channels}x{info.height}x{info.width}",
            where,
            "give the model that the binary was compiled from",
        )
    return image


def _dtype(model: Any, name: str) -> Any:
    from onnx import helper

    kind = next(i.type.tensor_type.elem_type for i in model.graph.input if i.name == name)
    return helper.tensor_dtype_to_np_dtype(kind)


class Agreement:
    """Sums over images of how the outputs of a binary agree with the float model's."""

    def __init__(self, reference: FloatModel, results: Sequence[OutputInfo | HostOutput]) -> None:
        self._reference = reference
        self._lists = [out.name for out in results if out.shape is None]
        names = [out.name for out in results if out.shape is not None]
        self._sums = {name: np.zeros(4) for name in names}  # squares of want, of got, of the difference; product
        self._most = {name: np.zeros(2) for name in names}  # error, magnitude

    def add(self, images: NDArray[np.uint8], first: int, got: Mapping[str, Result]) -> None:
        """Take some more images, as `FloatModel.outputs` does, and the outputs of the binary by name."""
        want = self._reference.outputs(images, first)
        for name, sums in self._sums.items():
            a, b = (np.asarray(values[name], np.float64) for values in (want, got))
            if a.shape != b.shape:
                raise DataError(f"output {name} has shape {a.shape} in the float model, {b.shape} in the binary")
            off = np.abs(a - b)
            sums += [(a * a).sum(), (b * b).sum(), (off * off).sum(), (a * b).sum()]
            most = self._most[name]
            np.maximum(most, [off.max(initial=0), np.abs(a).max(initial=0)], out=most)

    def rows(self, ratio: float) -> list[AgreementRow]:
        """Return a row for each output."""
        rows = [_row(ratio, name, *map(float, (*sums, *self._most[name]))) for name, sums in self._sums.items()]
        return rows + [AgreementRow(ratio, name, None, None, None, None) for name in self._lists]


def _row(
    ratio: float, name: str, want: float, got: float, off: float, product: float, error: float, largest: float
) -> AgreementRow:
    sqnr = None if want == 0 or off == 0 else round(10 * math.log10(want / off), 2)
    cosine = None if want == 0 or got == 0 else round(product / math.sqrt(want * got), 6)
    return AgreementRow(ratio, name, sqnr, cosine, float(f"{error:.6g}"), float(f"{largest:.6g}"))


def agreement_table(provenance: dict[str, str], rows: list[AgreementRow]) -> Table:
    """Return the rows as a table."""
    return Table(SCHEMA, provenance, tuple(asdict(row) for row in rows))
