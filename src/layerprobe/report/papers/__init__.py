"""Papers: results set beside published ones."""
