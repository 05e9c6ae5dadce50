"""Pictures of networks with two inputs and layers of two or three units."""
