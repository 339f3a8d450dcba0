"""Records, units, errors and the store: what every other room speaks. Imports neither torch nor transformers."""
