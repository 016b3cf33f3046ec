"""Bundles: a result with all that it rests on in one signed file, so that others can check it."""
