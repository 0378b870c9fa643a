"""From files to a binary, and a binary ready to run."""
