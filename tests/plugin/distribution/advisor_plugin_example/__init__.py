"""A strategy of another distribution, registered by an entry point alone."""
