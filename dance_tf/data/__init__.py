"""Images and series: embedded digits, TensorFlow Datasets, files and arrays of the user's own."""
