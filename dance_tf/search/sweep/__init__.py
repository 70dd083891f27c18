"""Many searches over one supernet: their plan, their fronts and their picture."""
