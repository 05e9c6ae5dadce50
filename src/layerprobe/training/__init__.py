"""What belongs to a Lightning run: checkpoints, the probe callback, progress."""
