"""The command line: parse, call the pipeline, render. Nothing here computes anything.

Modules here import only click and the core at the top; everything else is imported by the command that needs it, so
that ``advisor --help`` answers at once.
"""
