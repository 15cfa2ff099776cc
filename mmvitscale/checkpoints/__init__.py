"""Checkpoints: read safely, converted, matched with a model, resumed."""
