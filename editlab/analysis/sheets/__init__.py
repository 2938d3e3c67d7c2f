"""Printed tables: views of result tables with mean and interval, as numbers (CSV) and as LaTeX.

Each is one function from the tables that it needs to a :class:`editlab.analysis.sheets.base.Sheet`, found by its name
through :mod:`editlab.analysis.registry`.
"""
