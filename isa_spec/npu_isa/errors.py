"""The faults of the stack: what is wrong, where, and the way out."""

import difflib
from collections.abc import Iterable


class NpuError(Exception):
    """The input is wrong. Anything else that escapes is a bug of this tool.

    Args:
        message: what is wrong, with the value found and the limit.
        where: file, node, line, byte or instruction.
        hint: what to change.
    """

    fault = "input"

    def __init__(self, message: str, where: str = "", hint: str = "") -> None:
        super().__init__(message, where, hint)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        """Return the text for a person: `where: message`, and the hint on a line of its own."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class MachineError(NpuError):
    """A machine description breaks its rules."""


class AsmError(NpuError):
    """Assembly text cannot be read."""


class ContainerError(NpuError):
    """A .npubin or .npuq file is damaged, of another version, or inconsistent."""


class ProgramError(NpuError):
    """A program races, deadlocks, reads unwritten memory or leaves a memory."""

    fault = "program"


class UnsupportedError(NpuError):
    """The machine or the compiler cannot do what the model asks for."""

    fault = "unsupported"


class ModelError(NpuError):
    """A model file is damaged or contradicts itself."""


class DataError(NpuError):
    """Images, labels or preprocessing do not fit the model."""


class CompileError(NpuError):
    """The model does not fit the machine described."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the known word nearest to a wrong one, or "" if none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else ""
