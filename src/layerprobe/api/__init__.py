"""Functions for use from Python: probe a network, look at its results, predict with its heads."""
