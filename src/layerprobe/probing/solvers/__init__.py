"""Algorithms that fit linear heads, one in each file."""
