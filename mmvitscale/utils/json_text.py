"""Results as JSON that every reader takes: NaN and Inf are null, and what JSON has no type for becomes what is nearest."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(content: object, indent: int | None = 1) -> str:
    """Valid JSON with a line break at its end, whatever the content holds (``plain``)."""
    return json.dumps(plain(content), indent=indent, allow_nan=False) + '\n'


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tensors and arrays as nested lists, numbers that are NaN or Inf as None, sets as lists, the
    keys of dicts and everything else as text. Raises ValueError for two keys with the same text."""
    if hasattr(value, 'tolist'):  # PyTorch's and NumPy's, neither of which is imported for this
        value = value.tolist()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        texts = {_key(key): plain(item) for key, item in value.items()}
        if len(texts) < len(value):
            raise ValueError(f'two of the keys {", ".join(map(repr, value))} have the same text')
        return texts
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def _key(key: object) -> str:
    return key if isinstance(key, str) else json.dumps(plain(key)) if isinstance(key, (bool, int)) or key is None else str(key)
