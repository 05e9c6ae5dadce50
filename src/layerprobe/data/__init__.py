"""Lightning data modules: what the networks learn from."""
