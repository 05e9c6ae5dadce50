"""Reports: figures of a run, the page that compares runs, pictures of small networks, tables for the terminal."""
