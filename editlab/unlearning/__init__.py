"""The unlearning study: what is learned, unlearned, chosen and attacked, from files to files."""
