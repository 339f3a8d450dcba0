"""Predicts memory, time and quality of one configuration, each with an interval and its source."""
