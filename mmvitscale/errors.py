"""The one exception for input that cannot work, and how its messages list names."""

from pathlib import Path
from traceback import walk_tb
from typing import Sequence


class InputError(ValueError):
    """Something the user gave cannot work.

    The message is one sentence that says what was found, what is expected and what to do next. The tools print it
    as it stands, without a traceback; every other exception is a defect and keeps its traceback.
    """


def comes_from_here(error: BaseException) -> bool:
    """Whether a line of this package raised the error itself: a defect of ours, if it is no InputError."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    here = Path(__file__).parent
    return bool(files) and (here in Path(files[-1]).parents or here.parent / 'tools' in Path(files[-1]).parents)


def some_of(names: Sequence[str]) -> str:
    """The first three names, and an ellipsis if there are more."""
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
