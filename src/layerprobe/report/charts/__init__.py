"""The charts of results, for a run's figures and for the page."""
