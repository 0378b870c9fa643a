"""The text of a package's modules, for Numba's cache.

Numba's cache looks at the file of a cached function alone, and at the values that the function captures: one that
captures the digest of its package knows an edit of any module. So a cached kernel is made within a function that takes
the digest, and calls `depend_on` with it: without a use there would be nothing to capture.
"""

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable

from numba.extending import register_jitable

from npu_sim.numba_options import INLINED, WITHOUT_REFERENCE_COUNTS


def digest(package: str) -> str:
    """Return the SHA-256 of a package's modules, inner packages' among them, and of Numba's options, in hexadecimal."""
    found = hashlib.sha256(repr((WITHOUT_REFERENCE_COUNTS, INLINED)).encode())
    for file in _modules(resources.files(package)):
        found.update(file.read_bytes())
    return found.hexdigest()


@register_jitable
def depend_on(sources: str) -> None:
    """Do nothing: a kernel that calls this is compiled anew when `sources`, which it captures, has changed."""


def _modules(folder: Traversable) -> list[Traversable]:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    inner = [module for entry in entries if entry.is_dir() for module in _modules(entry)]
    return [entry for entry in entries if entry.name.endswith(".py")] + inner
