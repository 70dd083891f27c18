"""Exports of networks, accelerators and evaluators, and how those are served."""
