"""Images: embedded digits, TensorFlow Datasets, and what prepared data hold."""
