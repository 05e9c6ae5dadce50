"""Analyses: one question about a layer a file, asked beside its linear head."""
