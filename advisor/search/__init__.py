"""Planning and tuning: what to run under a budget. Optuna lives only below this room."""
