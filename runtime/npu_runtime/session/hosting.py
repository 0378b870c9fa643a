"""What the host does of a model, in words; every report of a binary that has a part for the host names it."""

from collections import Counter

from npu_isa.file.binary import Binary, HostPart

BEHIND = "reads "  # the reason of a node that follows one that the machine does not run (npu_compiler.frontend.host)


def host_lines(host: HostPart | None, machine_macs: int) -> list[str]:
    """Return what the host runs and why, a line each; nothing where it has no part.

    Args:
        host: its part.
        machine_macs: multiply-accumulates per image of the machine's part.
    """
    if host is None:
        return []
    reasons: dict[tuple[str, str], list[str]] = {}
    behind: Counter[str] = Counter()
    for node in host.nodes:
        if node.reason.startswith(BEHIND):
            behind[node.operator] += 1
        else:
            reasons.setdefault((node.operator, node.reason), []).append(node.name)
    lines = [f"{_counted(len(host.nodes))} of the model run on the host, {_share(host, machine_macs)}"]
    lines += [f"{operator} ({', '.join(names)}): {reason}" for (operator, reason), names in reasons.items()]
    if behind:
        kinds = ", ".join(f"{operator} {count}" for operator, count in sorted(behind.items()))
        lines.append(f"{_counted(behind.total())} behind: {kinds}")
    return [*lines, "cycles and latency are those of the machine alone"]


def host_of(binary: Binary) -> list[str]:
    """Return the lines of a binary."""
    return host_lines(binary.host, _machine_macs(binary))


def host_summary(binary: Binary) -> str:
    """Return the host's part in one line, "" where there is none."""
    if binary.host is None:
        return ""
    kinds = Counter(node.operator for node in binary.host.nodes)
    named = ", ".join(f"{operator} {count}" for operator, count in sorted(kinds.items()))
    return f"{named}: {_share(binary.host, _machine_macs(binary))}"


def _machine_macs(binary: Binary) -> int:
    return sum(layer.macs for layer in binary.layers)


def _counted(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _share(host: HostPart, machine_macs: int) -> str:
    share = 100 * host.macs / max(host.macs + machine_macs, 1)
    return f"{host.macs:,} of {host.macs + machine_macs:,} multiply-accumulates ({share:.2g} %)"
