"""Training loops and losses: base models from statements, and retraining."""
