"""The unlearning methods, one per file, and the controls."""
