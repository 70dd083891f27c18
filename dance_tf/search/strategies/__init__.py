"""Strategies that search network and accelerator together, all under one protocol."""
