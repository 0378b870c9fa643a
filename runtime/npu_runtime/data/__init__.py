"""Images, labels and preprocessing."""
