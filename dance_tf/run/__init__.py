"""Surroundings of a run: its folder's lock, checkpoints, record and the lines on the terminal."""
