"""LoRA adapters from what they do: a pool of teachers, their behavioural deltas, and adapters retrieved, merged, generated.

:mod:`preparation` makes the base and the pools (:mod:`pool`) of a seed, :mod:`deltas` measures what each adapter changes in
the base, :mod:`retrieval` finds adapters by that, :mod:`predictor` predicts it from a description, :mod:`coefficients` and
:mod:`hyperconvolution` generate adapters from descriptions, :mod:`references` are the rivals that each must beat. A bench
(:mod:`bench`) is one seed of it all; :mod:`stages`, :mod:`generation` and :mod:`merge_table` make its tables.
"""
