"""Register-level simulator: every register of the machine, stepped at each clock edge; the reference for time."""
