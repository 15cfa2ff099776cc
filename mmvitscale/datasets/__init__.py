"""Data sets: read, checked, sampled; the synthetic mini dataset."""
