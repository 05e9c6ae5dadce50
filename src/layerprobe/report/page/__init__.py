"""The page that compares runs: linked views in one file that needs no server and no network."""
