"""Results: records, the store on disk, the readers of runs, and the sink to Weights & Biases.

Frames of `results` are in the columns of `ProbeRecord`, those of `metrics` in the columns of `MetricRecord`.
"""
