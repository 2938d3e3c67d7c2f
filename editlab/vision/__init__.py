"""The vision study: mend the errors of an image classifier, and hold every gain against what it costs elsewhere.

A set of images has one use (:mod:`editlab.data.images`): training, finding errors, stopping, the final comparison. Edits
come from the same algebra as the language study's; nothing here solves a system of its own.
"""
