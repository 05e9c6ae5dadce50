"""A model and a data set of one's own, with their configurations in `conf/`."""
