"""Layers that both backbones use."""
