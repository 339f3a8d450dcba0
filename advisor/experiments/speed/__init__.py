"""Suite ``speed``: a recommended plan against the plain recipes for the same method, in turn, on one machine."""
