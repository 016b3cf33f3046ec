"""The audits: one claim per file."""
