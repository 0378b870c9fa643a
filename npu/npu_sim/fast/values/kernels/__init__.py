"""The innermost kernels of the value simulator: three sets with one contract (`arguments`), one of them chosen.

`chosen` is `plain` where Numba compiles nothing (NUMBA_DISABLE_JIT), else `llvm` where this Numba has the internals
that it needs, else `loops`.
"""

import warnings
from importlib import import_module
from types import ModuleType

import numba

from npu_sim.numba_options import INTERNALS


def choose() -> ModuleType:
    """Return the fastest set of kernels that works here."""
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return import_module("npu_sim.fast.values.kernels.plain")
    if INTERNALS:
        try:
            llvm = import_module("npu_sim.fast.values.kernels.llvm")
            llvm.check()
        except Exception as error:  # whatever another Numba makes of it
            text = f"the value simulator is several times slower with Numba {numba.__version__} than it can be"
            warnings.warn(f"{text}: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
        else:
            return llvm
    return import_module("npu_sim.fast.values.kernels.loops")


chosen = choose()
