"""What probing leaves behind: the rows, the store on disk, and the sink to Weights & Biases."""
