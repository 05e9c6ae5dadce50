"""What a layer's activations become, and where they wait until a head is fitted to them."""
