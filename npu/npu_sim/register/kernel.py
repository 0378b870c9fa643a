"""How the kernels of this package are compiled.

Kernels allocate nothing, so they are compiled without Numba's runtime (`_nrt`): counting references to the arrays that
travel through a cycle would take longer than the cycle's work. What every cycle calls is put into its caller, where its
arrays are already at hand.
"""

from collections.abc import Callable
from typing import Any

from numba import njit

_OPTIONS: dict[str, Any] = {"_nrt": False}
kernel: Callable[..., Any] = njit(**_OPTIONS)
inlined: Callable[..., Any] = njit(**_OPTIONS, forceinline=True)
cached: Callable[..., Any] = njit(**_OPTIONS, cache=True)  # what Python calls
