"""Network spaces, and the supernet that holds every network of one."""
