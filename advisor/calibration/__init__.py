"""Calibration: what one device was measured to do. Reading a record needs neither torch nor scipy."""
