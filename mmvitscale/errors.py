"""The one exception for input that cannot work."""


class InputError(ValueError):
    """Something the user gave cannot work.

    The message is one sentence that says what was found, what is expected and what to do next. The tools print it
    as it stands, without a traceback; every other exception is a defect and keeps its traceback.
    """
