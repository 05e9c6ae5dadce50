"""Metrics of what a head answers, and the intervals that they have."""
