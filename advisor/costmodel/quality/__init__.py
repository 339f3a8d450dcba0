"""Quality: a prior from published tables, evidence from short runs, an interval from both."""
