"""From an architecture to its best accelerator and cost, with a gradient."""
