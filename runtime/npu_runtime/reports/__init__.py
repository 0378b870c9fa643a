"""What came out and why: accuracy, cycles, choices of the quantizer, as tables, text and plots."""
