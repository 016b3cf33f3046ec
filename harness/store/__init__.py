"""What was made, kept, and found again."""
