"""Weights in files: read safely, brought under our names and back, and compared with the model that they enter."""
