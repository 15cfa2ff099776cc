"""An object whose loading would run code: where a file was unpickled, ``marker`` is a folder."""

import os


class Attack:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)
