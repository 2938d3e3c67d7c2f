"""Transformer networks as editing sees them: architectures, hooks, loading, tokenization, cached prefixes."""
