"""Values of a program by whole-instruction kernels, for a batch of images at once."""
