"""Functions of a single value in postfix notation: what the float graph's `Curve` computes.

A program is read from left to right: "x" and numbers go on a stack, a name takes its operands off it and puts its
result there.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Program = tuple[str | float, ...]


@cache
def _compiled_erf() -> Callable[[Any], Any]:
    from numba import vectorize  # here: whoever asks for help alone need not wait for it

    return vectorize(cache=True)(_erf)  # type: ignore[no-any-return, no-untyped-call]


def _erf(x: float) -> float:
    return math.erf(x)


UNARY: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "neg": np.negative,
    "reciprocal": np.reciprocal,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": lambda x: _compiled_erf()(x),
    "softplus": lambda x: np.logaddexp(x, 0.0),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
}
SPREAD = np.concatenate([[0.0], *(s * 2.0 ** np.linspace(-12, 10, 353) for s in (-1, 1))])  # arguments to try

X: Program = ("x",)


@np.errstate(all="ignore")  # values that are not finite are for the caller to find
def curve(program: Program, x: NDArray[Any]) -> F64:
    """Return f(x) in float64, the shape of `x`."""
    values = np.asarray(x, np.float64)
    stack: list[Any] = []
    for word in program:
        if word == "x":
            stack.append(values)
        elif not isinstance(word, str):
            stack.append(np.float64(word))
        elif word in UNARY:
            stack.append(UNARY[word](stack.pop()))
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(BINARY[word](left, right))
    (result,) = stack
    return np.array(np.broadcast_to(result, values.shape), np.float64)


def well_formed(program: Program) -> bool:
    """Whether a program leaves one value, and each name finds its operands."""
    depth = 0
    for word in program:
        if isinstance(word, str) and word != "x":
            if word not in UNARY and word not in BINARY:
                return False
            depth -= 1 + (word in BINARY)
            if depth < 0:
                return False
        depth += 1
    return depth == 1


def after(program: Program, before: Program) -> Program:
    """Return the program of f(g(x))."""
    return tuple(w for word in program for w in (before if word == "x" else (word,)))
