"""The machine: its description, and the rules of its numerics, times and addresses, each stated once."""
