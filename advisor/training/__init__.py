"""Building, data and the Trainer run: the code that both runs and is traced."""
