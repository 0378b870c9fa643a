"""What a person touches: sessions, evaluation, reports, command line."""
