"""What the machine is: instructions, numerics, timing rules, machine description, binary container."""
