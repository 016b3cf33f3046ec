"""What happens to models on one device."""
