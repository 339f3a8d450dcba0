"""One run, or a few steps, in a process of its own: times, memory, metrics and typed outcomes."""
