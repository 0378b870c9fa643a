"""How the check names an operation and finds the first of many faults."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_isa.errors import ProgramError
from npu_isa.isa.ops import Memory, Op, name_of
from npu_isa.isa.resolve import Ops

Array = NDArray[Any]
UNITS = {
    Memory.ACT: "activation words",
    Memory.WEIGHT: "weight words",
    Memory.PARAM: "parameter rows",
    Memory.ACC0: "accumulator rows of half 0",
    Memory.ACC1: "accumulator rows of half 1",
    Memory.DRAM: "DRAM bytes",
}


def label(op: Op) -> str:
    """Return how messages name an operation: instruction 17 (conv)."""
    return f"instruction {op.index} ({name_of(op)})"


def fault(op: Op, message: str, hint: str = "") -> ProgramError:
    """Return the error of one operation."""
    return ProgramError(message, label(op), hint)


class First:
    """The first fault of a program that rules over columns find: the earliest operation's, by the earliest rule.

    Attributes:
        index: of the faulty operation so far, or the number of operations.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self.index = len(ops)
        self._text: Callable[[], tuple[str, str]] = lambda: ("", "")

    def need(self, index: Array, ok: Array, message: Callable[[int, Any], str], hint: str = "") -> None:
        """Ask for a condition.

        Args:
            index: places in the program, ascending, one per entry of `ok`.
            ok: where the condition holds.
            message: what is wrong, of the entry and the operation as a row.
            hint: the way out.
        """
        wrong = np.flatnonzero(~np.asarray(ok, np.bool_))
        if wrong.size and index[wrong[0]] < self.index:
            entry = int(wrong[0])
            self.index = int(index[entry])
            self._text = lambda: (message(entry, self._ops[self.index]), hint)

    def check(self) -> None:
        """Raise what was found.

        Raises:
            ProgramError: the first fault.
        """
        if self.index < len(self._ops):
            message, hint = self._text()
            raise fault(self._ops[self.index], message, hint)
