"""Measurements of the parts, for `python -m tools.benchmark`."""
