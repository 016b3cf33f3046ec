"""Judge by tests of equivalence: pure functions on floats."""
