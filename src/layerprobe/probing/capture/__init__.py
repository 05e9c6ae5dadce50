"""The intermediate tensors of a forward pass: which there are, and how they are read."""
