"""The analytical loop-nest model: mappings, what they move and cost, and the best of them."""
