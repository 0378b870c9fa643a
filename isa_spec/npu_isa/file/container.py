"""The .npubin file: magic, version, SHA-256 of what follows, then a safetensors payload with one JSON manifest.

Reading validates everything structural (`manifest`) before anything runs. Equal binaries give equal bytes: no time
stamps, sorted keys.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_isa.errors import ContainerError
from npu_isa.file.binary import Binary
from npu_isa.file.manifest import FieldError, from_parts, to_parts

MAGIC = b"NPUBIN\r\n"
VERSION = 3
HEAD = len(MAGIC) + 4 + 32
WAY_OUT = "compile the model again"


def seal(magic: bytes, version: int, tensors: dict[str, NDArray[Any]], manifest: dict[str, Any]) -> bytes:
    """Return file bytes: magic, version, checksum, safetensors payload with the manifest as its metadata."""
    from safetensors.numpy import save

    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    payload = save({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}, metadata={"manifest": text})
    body = version.to_bytes(4, "little") + hashlib.sha256(payload).digest()
    return magic + body + payload


def unseal(data: bytes, magic: bytes, version: int, where: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the tensors and the manifest of file bytes.

    Raises:
        ContainerError: not such a file, another version, damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if data[: len(magic)] != magic:
        raise ContainerError(f"not a {magic.decode().strip().lower()} file", where, "check the path")
    if len(data) < HEAD:
        raise ContainerError(f"{len(data)} bytes: the file is cut short", where, WAY_OUT)
    found = int.from_bytes(data[len(magic) : len(magic) + 4], "little")
    if found != version:
        raise ContainerError(f"file version {found}, this tool reads version {version}", where, WAY_OUT)
    payload = data[HEAD:]
    if hashlib.sha256(payload).digest() != data[len(magic) + 4 : HEAD]:
        raise ContainerError("the checksum does not match: the file is damaged", where, WAY_OUT)
    try:
        tensors = load(payload)
        size = int.from_bytes(payload[:8], "little")
        manifest = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["manifest"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ContainerError(f"the payload cannot be read: {error}", where, WAY_OUT) from None
    if not isinstance(manifest, dict):
        raise ContainerError("the manifest is not an object", where, WAY_OUT)
    return tensors, manifest


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file under a temporary name beside its place and rename it: whole or not at all.

    A symbolic link stays, and the file that it points to is replaced; a device or a pipe is written to as it is.

    Raises:
        ContainerError: the folder does not exist or cannot be written.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                file.write(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise ContainerError(f"cannot write: {error.strerror}", str(path), "give a path in a writable folder") from None


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def read_whole(path: str | Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ContainerError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ContainerError(f"cannot read: {error.strerror}", str(path), "check the path") from None


def to_bytes(binary: Binary) -> bytes:
    """Return the file bytes of a binary."""
    return seal(MAGIC, VERSION, *to_parts(binary))


def save(binary: Binary, path: str | Path) -> None:
    """Write a .npubin file, whole or not at all."""
    write_whole(path, to_bytes(binary))


def load(path: str | Path) -> Binary:
    """Read a .npubin file.

    Raises:
        ContainerError: missing, damaged, of another version or ISA, or inconsistent.
    """
    return from_bytes(read_whole(path), Path(path).name)


def from_bytes(data: bytes, where: str) -> Binary:
    """Return the binary in file bytes; `where` names it in errors.

    Raises:
        ContainerError: anything structural is wrong.
    """
    arrays, manifest = unseal(data, MAGIC, VERSION, where)
    try:
        return from_parts(arrays, manifest)
    except FieldError as error:
        raise ContainerError(error.message, where, WAY_OUT) from None
