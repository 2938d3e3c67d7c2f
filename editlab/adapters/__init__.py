"""LoRA adapters from what they do: a pool of teachers, their behavioural deltas, and adapters retrieved, merged, generated.

:mod:`pool` trains the teachers, :mod:`deltas` measures what each changes in the base, :mod:`retrieval` finds adapters by
that, :mod:`predictor` predicts it from a description, :mod:`coefficients` and :mod:`hyperconvolution` generate adapters
from descriptions, :mod:`references` are the rivals that each must beat, and :mod:`study` does one seed of it all, from files
to files.
"""
