"""Private names of other packages: one module for each, and nothing else in layerprobe uses such names.

Each module says which versions its names are known for; a test of each, in `tests/compat`, fails with the version that
changes one.
"""
