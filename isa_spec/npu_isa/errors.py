"""The faults of the stack: what is wrong, where, and the way out."""

import difflib
from collections.abc import Iterable

WORD = 60  # characters of a wrong word that a message shows
LINE = 2000  # and of one line of it


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
        text = f"{printable(self.where)}: {self.message}" if self.where else self.message
        text = f"{text}\n  hint: {self.hint}" if self.hint else text
        return "\n".join(printable(line) for line in text.split("\n"))


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


def printable(text: str) -> str:
    """Return one line as it may be printed: what a terminal obeys or hides is escaped, tabs aside, and it is cut."""
    shown = text if text.isprintable() else "".join(_printable(c) for c in text)
    return _cut(shown, LINE)


def quoted(value: object) -> str:
    """Return a wrong value for a message: as Python writes it, cut."""
    return _cut(repr(value), WORD)


def _printable(character: str) -> str:
    return character if character.isprintable() or character == "\t" else ascii(character)[1:-1]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the known word nearest to a wrong one, or "" if none is near."""
    if len(word) > WORD:
        return ""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else ""
