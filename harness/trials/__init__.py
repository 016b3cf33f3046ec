"""One trial: the poisoned, the retrained and the unlearned model, and what is read of them."""
