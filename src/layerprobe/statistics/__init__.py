"""Statistics of test errors and of directions, with NumPy and the standard library alone."""
