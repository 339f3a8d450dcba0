"""Published comparisons as suites: what was published, what is trained here, and what that says of every claim."""
