"""Fake-tensor traces of the step that ``run`` executes: no weights, no memory, no device needed."""
