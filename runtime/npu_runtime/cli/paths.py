"""Files and folders that a command reads and writes, checked before it works.

The type of an argument says what is done with its path. So that nothing is lost, an output may not be an input or
another output, under any name; and what cannot be written is refused before minutes of work, not after.
"""

import argparse
import csv
import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from npu_compiler.qgraph import npuq
from npu_isa.errors import ContainerError, NpuError
from npu_isa.file import container
from npu_isa.machine.config import SHIPPED

STDIN = "-"
KINDS = {
    "onnx": "an ONNX model",
    "npuq": "a quantized graph (.npuq)",
    "npubin": "a compiled binary (.npubin)",
    "toml": "a TOML file",
    "data": "a data set",
    "asm": "an assembly file",
}
NEXT = {  # what to do with a file that was given to the wrong command
    "onnx": "`npu compile` makes a binary of a model, `npu quantize` a quantized graph",
    "npuq": "`npu compile` makes a binary of it, `npu explain` says what is in it",
    "npubin": "`npu run`, `report`, `verify`, `inspect` and `disasm` take it; `npu compile` takes .onnx or .npuq",
}
MAGICS = {container.MAGIC: "npubin", npuq.MAGIC: "npuq"}


class InputPath(str):
    """A path that is read. Of `kinds`, keys of `KINDS`; only a data set may be a folder."""

    kinds: tuple[str, ...]

    @classmethod
    def of(cls, *kinds: str) -> "Callable[[str], InputPath]":
        """Return the type of an argument that is a file of some kinds."""

        def path(text: str) -> InputPath:
            made = cls(text)
            made.kinds = kinds
            return made

        return path


class OutputFile(str):
    """A path that is written, and maybe read before."""


class OutputFolder(str):
    """A folder that is filled; it is made if it does not exist."""


def check_paths(args: argparse.Namespace) -> None:
    """Check all paths of a call, before it works.

    Raises:
        NpuError: an input of another kind, an output that would destroy an input or another output.
        ContainerError: an output that cannot be written.
    """
    given = vars(args).values()
    inputs = [p for p in given if isinstance(p, InputPath) and not _is_name(p)]
    outputs = [p for p in given if isinstance(p, OutputFile | OutputFolder)]
    for path in inputs:
        _check_kind(path)
    for i, output in enumerate(outputs):
        for source in inputs:
            _check_apart(output, source)
        for other in outputs[:i]:
            _check_outputs_apart(output, other)
        _check_writable(output)


def kind_of(path: str) -> str | None:
    """Return the kind of a file, by its first bytes or else its name; None if neither tells."""
    head = b""
    if not _is_special(path):  # a pipe can be read once
        with suppress(OSError), open(path, "rb") as file:
            head = file.read(max(map(len, MAGICS)))
    suffix = Path(path).suffix.lower().removeprefix(".")
    return MAGICS.get(head, suffix if suffix in NEXT else None)


def _is_name(path: InputPath) -> bool:
    """Whether an input is not the path of a file: a shipped machine, or standard input."""
    return path in SHIPPED if "toml" in path.kinds else path == STDIN


def _check_kind(path: InputPath) -> None:
    wanted = " or ".join(KINDS[kind] for kind in path.kinds)
    if os.path.isdir(path):
        if "data" not in path.kinds:
            raise NpuError(f"is a folder, not {wanted}", path, "give the path of the file")
        return
    found = kind_of(path)
    if found is not None and found not in path.kinds:
        raise NpuError(f"is {KINDS[found]}, not {wanted}", path, NEXT[found])


# -- outputs apart from inputs and from each other


def _check_apart(output: OutputFile | OutputFolder, source: InputPath) -> None:
    hint = "give the output another path; nothing was written"
    if isinstance(output, OutputFolder):
        if _same(output, source) or _inside(source, output):
            raise NpuError(f"this output folder holds the input {source}", output, hint)
    elif _is_special(output):
        return
    elif _same(output, source):
        raise NpuError(f"this output is the input {source}", output, hint)
    elif os.path.isdir(source) and os.path.exists(output) and any(_same(output, f) for f in _files_of(source)):
        raise NpuError(f"this output is a file of the data set {source}", output, hint)


def _check_outputs_apart(one: OutputFile | OutputFolder, other: OutputFile | OutputFolder) -> None:
    for file, place in ((one, other), (other, one)):
        if isinstance(place, OutputFolder) and _inside(file, place):
            raise NpuError(f"this output lies in the output folder {place}", file, "give each a place of its own")
    if _same(one, other) and not _is_special(one):
        raise NpuError(f"this output is the output {other} too", one, "give each a place of its own")


def _same(a: str | Path, b: str | Path) -> bool:
    """Whether two paths are one file, by links of either sort too, or would be."""
    if os.path.exists(a) and os.path.exists(b):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def _inside(path: str, folder: str) -> bool:
    spelled, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    return any(_same(parent, folder) for parent in (*spelled.parents, *real.parents))


def _is_special(path: str) -> bool:
    """Whether a path is a device or a pipe, as /dev/null: nothing in it can be lost."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _files_of(folder: str) -> list[Path]:
    """Return labels.csv and the images that it names, as far as it can be read: reading it is another's business."""
    labels = Path(folder) / "labels.csv"
    try:
        with labels.open(encoding="utf-8-sig", newline="") as file:
            return [labels, *(Path(folder) / row["file"] for row in csv.DictReader(file) if row.get("file"))]
    except (OSError, ValueError, csv.Error):
        return [labels]


def _check_writable(output: OutputFile | OutputFolder) -> None:
    """Make, for a moment, the temporary file that the output is written to, or a file where the folder will be."""
    try:
        place = Path(os.path.realpath(output))
        if isinstance(output, OutputFolder):
            place = next(p for p in (place, *place.parents) if p.exists()) / "report"
        elif os.path.isdir(output):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        elif _is_special(output):
            open(output, "ab").close()
            return
        with tempfile.NamedTemporaryFile(prefix=f".{place.name}.", dir=place.parent):
            pass
    except OSError as error:
        raise ContainerError(f"cannot write: {error.strerror}", output, "give a path in a writable folder") from None
