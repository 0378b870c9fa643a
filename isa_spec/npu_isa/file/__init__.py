"""The binary as a value and as a .npubin file."""
