"""The one exception for input that cannot work, and how its messages list names."""

from collections.abc import Sequence
from pathlib import Path
from traceback import walk_tb

_PACKAGE = Path(__file__).parent


class InputError(ValueError):
    """Something the user gave cannot work.

    The message is one sentence that says what was found, what is expected and what to do next. The tools print it
    as it stands, without a traceback; every other exception is a defect and keeps its traceback.
    """


def is_ours(file: str) -> bool:
    """Whether a file of code, as a frame names it, is one of this package."""
    return _PACKAGE in Path(file).parents


def comes_from_here(error: BaseException) -> bool:
    """Whether a line of this package raised the error itself: a defect of ours, if it is no InputError."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    return bool(files) and (is_ours(files[-1]) or _PACKAGE.parent / 'tools' in Path(files[-1]).parents)


def some_of(names: Sequence[str]) -> str:
    """The first three names, and an ellipsis if there are more."""
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
