"""Text in, batches out: reading, checking, splitting, measuring and tokenising training text."""
