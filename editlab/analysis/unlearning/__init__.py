"""What the unlearning study reports."""
