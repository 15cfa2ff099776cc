"""One concept of a network in each file."""
