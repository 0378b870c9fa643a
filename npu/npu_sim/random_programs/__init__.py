"""Random valid programs on random machines: what the models of the machine are compared on. A seed names a program."""
