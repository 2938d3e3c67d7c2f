"""The mathematics of the figures and sentences: intervals, paired differences, curves."""
