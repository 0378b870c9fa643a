"""What identifies a result."""

import hashlib
from importlib import metadata

from npu_isa.file.container import to_bytes
from npu_isa.isa.tables import ISA_HASH

from npu_runtime.session.hosting import host_summary
from npu_runtime.session.session import Session


def provenance(session: Session) -> dict[str, str]:
    """Return what identifies a result: tool, instruction set, machine, model and binary, and what the host does."""
    binary = session.binary
    return {
        "tool": f"npu-stack {metadata.version('npu-stack')}",
        "isa": ISA_HASH[:16],
        "machine": binary.machine.name,
        "machine_hash": binary.machine.hash()[:16],
        "clock_hz": f"{binary.machine.clock_hz:g}",
        "model": binary.model,
        "binary_sha256": hashlib.sha256(to_bytes(binary)).hexdigest(),
        **({"host": host_summary(binary)} if binary.host is not None else {}),
    }
