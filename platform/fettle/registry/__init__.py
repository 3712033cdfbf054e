"""Published versions of adapters, and the movable names that point at them."""
