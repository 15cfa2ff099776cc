"""The one exception for input that cannot work, and how its messages list names."""

from typing import Sequence


class InputError(ValueError):
    """Something the user gave cannot work.

    The message is one sentence that says what was found, what is expected and what to do next. The tools print it
    as it stands, without a traceback; every other exception is a defect and keeps its traceback.
    """


def some_of(names: Sequence[str]) -> str:
    """The first three names, and an ellipsis if there are more."""
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
