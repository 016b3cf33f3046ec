"""The commands of ``pytest-unlearning``, and of ``python -m harness``."""
