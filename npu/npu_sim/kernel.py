"""How the simulators' kernels are compiled, and the records that those of time and registers work on.

Kernels allocate nothing, so they are compiled without Numba's runtime where it can be left out: counting references to
the arrays that travel through a cycle would take longer than the cycle's work. What every cycle calls is put into its
caller, where its arrays are already at hand.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from npu_sim.numba_options import INLINED, WITHOUT_REFERENCE_COUNTS

kernel: Callable[..., Any] = njit(**WITHOUT_REFERENCE_COUNTS)
inlined: Callable[..., Any] = njit(**WITHOUT_REFERENCE_COUNTS, **INLINED)
cached: Callable[..., Any] = njit(**WITHOUT_REFERENCE_COUNTS, cache=True)  # what Python calls


def record(*names: str) -> np.dtype[Any]:
    """Return the type of a record of numbers, int64 each."""
    return np.dtype([(name, np.int64) for name in names], align=True)
