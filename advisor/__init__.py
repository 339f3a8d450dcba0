"""Fine-tuning advisor: predicts memory, time and quality of every strategy, recommends one, tunes it, runs it, verifies it."""

__version__ = "0.1.0"
