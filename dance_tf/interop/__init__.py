"""Networks and mappings in the forms of other tools: Keras models in, files in and out."""
