"""What an unlearner promises, and the checks of it."""
