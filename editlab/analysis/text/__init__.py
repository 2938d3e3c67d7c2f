"""Words: numbers and names as text, findings as sentences, and escapes for the places where text is shown."""
