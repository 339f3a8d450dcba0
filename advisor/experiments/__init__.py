"""Grids of measured cells: each cell runs in a process of its own, is recorded at once, and is compared afterwards.

``grid``, ``store`` and ``error_statistics`` know nothing about what is measured. Their users are
``validation`` (predictions against real steps), ``speed`` (a plan against published recipes) and ``runs`` (finished
runs against their plans).
"""
