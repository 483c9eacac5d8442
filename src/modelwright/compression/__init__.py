"""Making a model smaller, or several models one: averaging and quantization of weights."""
