"""A method, a poison and a task for pytest-unlearning, from outside its tree."""
