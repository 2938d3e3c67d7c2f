"""LaTeX: printed tables, the definitions that the paper fetches, and typesetting."""
