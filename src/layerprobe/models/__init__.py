"""Networks, one in each file, and the Lightning modules that train them."""
