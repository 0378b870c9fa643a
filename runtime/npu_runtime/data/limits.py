"""How much a data set may take. Every limit is checked before the memory is taken."""

from npu_isa.errors import DataError

KEPT_BYTES = 8 << 30
"""Of all images used, together, after resize and crop: the 50,000 of ImageNet's validation at 224x224 have 7.0 GiB."""

IMAGE_PIXELS = 64 << 20
"""Of one image: as its file declares it, and after a resize. 8192x8192."""

FILE_BYTES = 256 << 20
"""Of one image file, unpacked."""

LABELS_BYTES = 16 << 20
"""Of labels.csv, unpacked: some 400,000 lines."""


def check_kept(images: int, shape: tuple[int, ...], where: str) -> None:
    """Raise DataError where the images used take more than KEPT_BYTES.

    Args:
        images: how many are used.
        shape: (height, width, channels) of each, after resize and crop.
        where: names the data set.
    """
    height, width, channels = shape
    total = images * height * width * channels
    if total > KEPT_BYTES:
        raise DataError(
            f"{images:,} images of {width}x{height} pixels and {channels} channels take {total / 2**30:,.1f} GiB, "
            f"the limit is {KEPT_BYTES / 2**30:g} GiB",
            where,
            "use fewer images (--limit; --max-images for a calibration), or smaller ones (--resize, --crop)",
        )


def check_pixels(height: int, width: int, what: str, where: str, hint: str) -> None:
    """Raise DataError where one image has more than IMAGE_PIXELS; `what` begins the message."""
    if height * width > IMAGE_PIXELS:
        raise DataError(
            f"{what} has {width}x{height} = {height * width:,} pixels, the limit is {IMAGE_PIXELS:,}", where, hint
        )
