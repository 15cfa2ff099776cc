"""The package's configs, each read from its files once for all tests."""

import copy
from functools import lru_cache

import mmvitscale

_read = lru_cache(maxsize=None)(mmvitscale.load_config)


def load(name):
    """A config by name, a copy of its own."""
    return copy.deepcopy(_read(name))
