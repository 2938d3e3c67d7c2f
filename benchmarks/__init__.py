"""Measurements of speed and memory: ``python -m benchmarks.run`` writes one JSON file each."""
