"""Options of Numba's compiler that its documentation does not promise, each left out where Numba does not know it.

They cost speed alone. NPU_NUMBA_INTERNALS=0 in the environment leaves all of them out, and the LLVM code of the value
simulator, as if this Numba had none of what they need.
"""

import os
from typing import Any

from numba import njit

INTERNALS = os.environ.get("NPU_NUMBA_INTERNALS") != "0"


def known_options(**options: Any) -> dict[str, Any]:
    """Return those of some options of `njit` that this Numba knows; none if its internals are not to be used."""
    compiler = getattr(njit(lambda: None), "targetdescr", None)  # none where nothing is compiled
    known = getattr(compiler, "options", None)
    return {name: value for name, value in options.items() if INTERNALS and hasattr(known, name)}


# for kernels that allocate nothing: counting references to arrays would take a third of the time and more
WITHOUT_REFERENCE_COUNTS = known_options(_nrt=False)
INLINED = known_options(forceinline=True)
