"""Formats of annotation tools, read into and written from one plain structure (``annotations``); a file for each format."""
