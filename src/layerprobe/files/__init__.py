"""Files of any content: written whole, written twice, locked, and named by what they hold."""
