"""Files that results are made of: artifacts and their provenance, code digests, archives, the warm worker."""
