"""What another distribution adds, registered by entry points alone: a strategy, a task, a metric, a data set."""
