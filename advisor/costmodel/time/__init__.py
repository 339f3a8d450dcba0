"""Time: seconds per operator class, per step, per run. Neither torch nor scipy is needed to predict."""
