"""Results made visible: figures, pictures of small networks, tables for the terminal."""
