"""pytest's part."""
