"""What probing a network takes: layers, bytes, places, seconds."""
