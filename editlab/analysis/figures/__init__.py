"""Figures: one function of one tidy table each, with a caption that states what that table says.

``NAME(table)`` draws, ``NAME_caption(table)`` says in one to three sentences what was found, with its interval and n. Both
are found by their names through :mod:`editlab.analysis.registry`.
"""
