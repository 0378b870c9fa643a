"""Members of a zip archive, unpacked piece by piece: a small archive may claim, or unpack to, any size."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from npu_isa.errors import DataError

LAYOUT = "a data set is a .npz with `images` (N, H, W, C uint8) and `labels` (N), or a folder or zip with labels.csv"
PIECE = 1 << 20  # bytes unpacked at once
DEFLATE_RATIO = 1032  # bytes that one byte of a deflate stream can stand for (zlib's technical notes)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others' unpackers in Python have no bound

# what zipfile raises on damaged archives
FAULTS = (
    *(OSError, EOFError, KeyError, IndexError, ValueError, OverflowError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


@contextmanager
def reading(what: str, where: str) -> Iterator[None]:
    """Turn what reading raises on damaged files into a DataError: "`what`: reason"."""
    try:
        yield
    except FAULTS as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or (error.args or [""])[0]
        raise DataError(f"{what}: {reason or type(error).__name__}", where, LAYOUT) from None


@contextmanager
def opened(path: Path, kind: str) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading; `kind` names it in errors. Raises DataError where it is not one."""
    with reading(f"not a readable {kind}", path.name):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def member(archive: zipfile.ZipFile, name: str, where: str) -> zipfile.ZipInfo:
    """Return what an archive says of a member.

    Raises:
        DataError: there is none, or it cannot have the size it claims, or is packed in another way than numpy's.
    """
    with reading(f"{name} cannot be read", where):
        info = archive.getinfo(name)
    if info.compress_type not in METHODS:
        raise DataError(f"{name} is packed by method {info.compress_type}", where, "store it, or use deflate")
    with reading(f"{name} cannot be read", where):
        inside = Path(archive.filename or "").stat().st_size
    if info.compress_size > inside or info.file_size > info.compress_size * DEFLATE_RATIO:
        raise DataError(
            f"{name} claims {info.file_size:,} bytes, packed into {info.compress_size:,} of a file of {inside:,}",
            where,
            "the archive is damaged; write it anew",
        )
    return info


@contextmanager
def unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Iterator[IO[bytes]]:
    """Open a member for reading by `read_into`."""
    with reading(f"{info.filename} cannot be read", where):
        stream = archive.open(info)
    with stream:
        yield stream


def read_into(stream: IO[bytes], out: memoryview, what: str, where: str) -> None:
    """Fill `out` with the next bytes of a member.

    Raises:
        DataError: the member ends before, or is damaged.
    """
    done = 0
    with reading(f"{what} cannot be read", where):
        while done < len(out):
            part = stream.read(min(PIECE, len(out) - done))
            if not part:
                raise EOFError(f"{len(out) - done:,} bytes are missing")
            out[done : done + len(part)] = part
            done += len(part)
