"""Second moments of keys: collected over a text, or read from files."""
