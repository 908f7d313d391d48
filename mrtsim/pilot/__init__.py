"""What data say about the variance components."""
