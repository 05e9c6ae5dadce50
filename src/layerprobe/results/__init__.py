"""Results: records, the store on disk, the readers of runs, and the sink to Weights & Biases."""
