"""Charts of results, the same for a run's figures and for the page."""
