"""Unlearners in processes of their own, which have the request and nothing else."""
