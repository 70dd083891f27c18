"""Accelerators and what a workload costs on them; knows neither Keras nor images."""
