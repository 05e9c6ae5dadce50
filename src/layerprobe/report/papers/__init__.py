"""Results set beside published ones."""
