"""The edit study: targets, keys, replay, trust, and the editing session around the solvers of :mod:`editlab.algebra`."""
