"""Where predictions of each image are written: names that do not meet, and the formats."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ..whole_file import whole_file


def output_names(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """Files in a folder -> for each a name relative to the folder, with slashes and without suffix, that no other has: where
    ``cat.jpg`` stands beside ``cat.png`` both keep their suffix as a part of the name."""
    full = {path: path.relative_to(root).as_posix() for path in paths}
    names = {path: str(PurePosixPath(name).with_suffix('')) for path, name in full.items()}
    while True:
        count = Counter(name.casefold() for name in names.values())  # some file systems ignore the case
        clashes = [path for path, name in names.items() if count[name.casefold()] > 1 and name != full[path]]
        if not clashes:
            return names
        for path in clashes:
            names[path] = full[path]


def write_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 BGR, or (H, W) uint8 or uint16, as PNG. Raises InputError if the file cannot be written."""
    _, encoded = cv2.imencode('.png', picture)
    with whole_file(path) as part:
        part.write_bytes(encoded.tobytes())


def write_array(path: Path, array: np.ndarray) -> None:
    """As .npy. Raises InputError if the file cannot be written."""
    with whole_file(path) as part:
        np.save(part, array, allow_pickle=False)


def write_json(path: Path, content: object) -> None:
    """Raises InputError if the file cannot be written."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content) + '\n')
