"""The co-search: its steps, schedule, checkpoints, result and the retraining after it."""
