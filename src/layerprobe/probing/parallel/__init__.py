"""What probes at the same time: processes that fit layers, and processes that share the batches."""
