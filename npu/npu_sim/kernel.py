"""How the kernels of the event loop and of the register-level machine are compiled, and the records that they work on.

Kernels allocate nothing, so they are compiled without Numba's runtime (`_nrt`): counting references to the arrays that
travel through a cycle would take longer than the cycle's work. What every cycle calls is put into its caller, where its
arrays are already at hand.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"_nrt": False}
kernel: Callable[..., Any] = njit(**_OPTIONS)
inlined: Callable[..., Any] = njit(**_OPTIONS, forceinline=True)
cached: Callable[..., Any] = njit(**_OPTIONS, cache=True)  # what Python calls


def record(*names: str) -> np.dtype[Any]:
    """Return the type of a record of numbers, int64 each."""
    return np.dtype([(name, np.int64) for name in names], align=True)
