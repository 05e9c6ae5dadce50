"""Pictures of networks with two inputs and layers of two or three units.

Samples have the columns checkpoint, x1, x2 and label, those at a hidden layer h1 and h2 too; a line is
w1·h1 + w2·h2 + bias = 0.
"""
