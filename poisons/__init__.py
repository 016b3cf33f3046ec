"""The poisons, one attack per file."""
