"""Validation: grids of exact configurations, what was predicted for each, what was measured, and how far apart they
are.
"""
