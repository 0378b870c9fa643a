"""The fast simulator: values by whole-instruction kernels, time by events."""
