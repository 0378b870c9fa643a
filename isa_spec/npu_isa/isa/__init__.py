"""The instruction set: the table, instruction words, and operations with the state they depend on."""
