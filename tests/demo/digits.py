"""The demo's images: scikit-learn's handwritten digits as two data sets, written by `python -m tests.demo.digits`.

The source has 1,797 gray images of 8x8 pixels with values 0..16, from 13 writers; images of one writer stand
together. The first 1,097 are for training and calibration, the last 700 for the test, so the test is mostly on
handwriting that the network has not seen. Each class is 67 to 72 of the 700.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
MODEL_FILE = FOLDER / "digits.onnx"  # written by train_digits.py
TRAIN_FILE = FOLDER / "digits_train.npz"
TEST_FILE = FOLDER / "digits_test.npz"
TRAIN_IMAGES = 1097

Arrays = dict[str, NDArray[np.uint8]]


def make() -> tuple[Arrays, Arrays]:
    """Return the training and the test set from scikit-learn.

    Returns:
        each `images` uint8 (N, 8, 8, 1) and `labels` uint8 (N,). A pixel p of 0..16 becomes p * 255 / 16, rounded half
        up.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = source.images.astype(np.int64)
    images = ((pixels * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = source.target.astype(np.uint8)
    first, rest = slice(None, TRAIN_IMAGES), slice(TRAIN_IMAGES, None)
    return {"images": images[first], "labels": labels[first]}, {"images": images[rest], "labels": labels[rest]}


def main() -> None:
    """Write both files. Equal arrays give equal bytes under one zlib: the archive holds no time."""
    for path, arrays in zip((TRAIN_FILE, TEST_FILE), make(), strict=True):
        np.savez_compressed(path, **arrays)
        print(f"{path.name}: {len(arrays['images'])} images, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
