"""One's own pipeline, as plain functions: a task that loads, trains and predicts in its own way, and its removal."""
