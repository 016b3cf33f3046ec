"""Many trials: which one next, where, and how many."""
