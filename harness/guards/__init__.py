"""What code of others must leave as it found it, and what notices if it does not. Nothing here imports torch."""
