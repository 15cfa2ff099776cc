"""Configs: loaded by name or file, checked, and fitted to the hardware."""
