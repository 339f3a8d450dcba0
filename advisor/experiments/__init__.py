"""Comparisons with published recipes: suites of real runs, beside each other on one machine."""
