"""The algebra that all studies share: pure functions from keys, residuals and second moments to low-rank updates."""
