"""The one refusal for want of memory: what needs how much, which memory, and which key of the machine to raise."""

from npu_isa.errors import CompileError
from npu_isa.machine.config import ACT_REGIONS, SHIPPED, WORD_BYTES, MachineConfig


def act_too_small(node: str, what: str, words: int, machine: MachineConfig) -> CompileError:
    """Return the error for a node whose smallest strip needs more than the activation memory.

    Args:
        node: its name.
        what: the smallest strip, its operands with their bytes.
        words: what it needs at least.
        machine: the machine.
    """
    unit = machine.act_banks * WORD_BYTES
    least = -(-words * WORD_BYTES // (ACT_REGIONS * unit)) * unit
    holds = machine.act_words * WORD_BYTES
    return too_small(
        f"node {node}", what, words * WORD_BYTES, "activation memory", holds, "act_region_bytes", least, machine
    )


def too_small(
    where: str, what: str, needs: int, memory: str, holds: int, key: str, least: int, machine: MachineConfig
) -> CompileError:
    """Return the error for something that needs more bytes than a memory holds.

    Args:
        where: node or network.
        what: that needs the bytes.
        needs, holds: bytes.
        memory: its name.
        key: of the machine description, and the least value that it must have.
        machine: the machine.
    """
    own = f'in a TOML file with a name of its own and base = "{machine.name}"'
    return CompileError(
        f"{what} needs {needs} bytes of {memory}, the machine has {holds}",
        f"{where}, machine {machine.name}",
        f"raise {key} to at least {least} {own if machine.name in SHIPPED else 'in its description'}",
    )
