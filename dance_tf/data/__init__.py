"""Images: embedded digits, TensorFlow Datasets, and checks of prepared data."""
