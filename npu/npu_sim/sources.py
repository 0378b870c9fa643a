"""The text of a package's modules as one number, for Numba's cache.

Numba's cache looks at the file of a function alone, and at the values that it captures: a cached function that captures
this number knows an edit of any module.
"""

import hashlib
from importlib import resources


def digest(package: str) -> str:
    """Return the SHA-256 of the modules of a package, and of how kernels are compiled, in hexadecimal."""
    found = hashlib.sha256((resources.files("npu_sim") / "kernel.py").read_bytes())
    for file in sorted(resources.files(package).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".py"):
            found.update(file.read_bytes())
    return found.hexdigest()
