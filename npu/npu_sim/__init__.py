"""What the machine does: simulators and counters."""
